"""What can be wrong with a run and can be said before it trains."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors import SafetensorError, safe_open
from transformer_lens.HookedRootModule import HookedRootModule


def check_checkpoint(
    path: str | Path, architecture: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    """
    Checks that a checkpoint folder can be resumed by an SAE of these tensor `shapes`.

    Raises:
        FileNotFoundError: if the folder or a file that SAELens writes is missing.
        ValueError: if its weights are truncated, or of another architecture or shape.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder at {path}.")
    for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{path} is not a checkpoint that can be resumed: it has no {name}. "
                "Give the folder of one checkpoint, for instance checkpoints/<id>/<n_samples>."
            )
    saved_architecture = json.loads((path / SAE_CFG_FILENAME).read_text())[
        "architecture"
    ]
    if saved_architecture != architecture:
        raise ValueError(
            f"The checkpoint {path} is of architecture {saved_architecture!r}; "
            f"this run trains {architecture!r}."
        )
    try:
        with safe_open(path / SAE_WEIGHTS_FILENAME, framework="pt") as weights:
            saved = {n: tuple(weights.get_slice(n).get_shape()) for n in weights.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path / SAE_WEIGHTS_FILENAME} cannot be read ({error}): the file is truncated "
            "or damaged. Resume from an earlier checkpoint."
        ) from error
    _check_shapes(path, saved, shapes)


def _check_shapes(
    path: Path, saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    for name, shape in wanted.items():
        if name not in saved:
            raise ValueError(
                f"The checkpoint {path} has no tensor {name!r}. A solo run "
                "(decomposability_coefficient=0) and a joint run cannot resume each other."
            )
        if saved[name] != shape:
            raise ValueError(
                f"The checkpoint {path} has {name} of shape {list(saved[name])}, this run's "
                f"is {list(shape)}. Set d_in, d_sae and meta_d_sae as they were."
            )


def check_dataset(dataset_path: str, streaming: bool) -> None:
    """
    Checks that a dataset holds at least one row.

    Raises:
        ValueError: if it is empty.
    """
    dataset: Any = load_dataset(dataset_path, split="train", streaming=streaming)
    if next(iter(dataset), None) is None:
        raise ValueError(
            f"The dataset {dataset_path!r} is empty: there is nothing to train on."
        )


@torch.no_grad()
def hook_width(model: HookedRootModule, hook_name: str) -> int:
    """
    Width of the activations that `hook_name` gives, a head's width times the heads.

    Raises:
        ValueError: if the model has no such hook, naming hooks that are like it.
    """
    if hook_name not in model.hook_dict:
        near = get_close_matches(hook_name, list(model.hook_dict), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"The model has no hook named {hook_name!r}.{hint}")
    device = next(model.parameters()).device
    tokens = torch.zeros((1, 2), dtype=torch.long, device=device)
    _, cache = model.run_with_cache(tokens, names_filter=[hook_name], prepend_bos=False)
    return cache[hook_name][0, 0].numel()


def check_hook(model: HookedRootModule, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """
    Checks that the hook exists and is as wide as the SAE.

    Raises:
        ValueError: if it does not, or is not.
    """
    width = hook_width(model, cfg.hook_name)
    if cfg.hook_head_index is None and width != cfg.sae.d_in:
        raise ValueError(
            f"The hook {cfg.hook_name!r} gives {width} dimensions but the SAE has "
            f"d_in={cfg.sae.d_in}. Set d_in to {width}."
        )
