"""What can be wrong with a run and can be said before it trains."""

import warnings
from difflib import get_close_matches
from typing import Any

import torch
from datasets import load_dataset
from sae_lens.config import LanguageModelSAERunnerConfig
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.training.config import DecomposabilityConfig

# at half of it mean |phi| fell by 1 to 4 % in runs of 245 to 1,954 steps, at one and a half times
# of it by 5 to 9 %: docs/results_appendix.md
LEAST_PACE = 1.0


def pace(sae: DecomposabilityConfig, lr: float) -> float:
    """How fast the meta SAE learns beside a primary of learning rate `lr`: steps times rate."""
    meta = sae.meta_steps_per_cycle * sae.meta_lr
    return meta / (sae.primary_steps_per_cycle * lr)


def warn_of_slow_meta_sae(cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """Warns where the meta SAE of a run does not keep up with the decoder that it explains."""
    sae = cfg.sae
    if (
        not isinstance(sae, DecomposabilityConfig)
        or not sae.decomposability_coefficient
        or sae.penalty != "decomposability"
        or pace(sae, cfg.lr) >= LEAST_PACE
    ):
        return
    warnings.warn(
        f"The meta SAE learns at {pace(sae, cfg.lr):.3g} times the pace of its primary: "
        f"meta_steps_per_cycle={sae.meta_steps_per_cycle} at meta_lr={sae.meta_lr} to "
        f"primary_steps_per_cycle={sae.primary_steps_per_cycle} at lr={cfg.lr}. Below "
        f"{LEAST_PACE:g} mean |phi| fell little in most of our runs, and reconstruction paid for it. "
        "Set meta_lr, up to 3e-3, or meta_steps_per_cycle higher: docs/training.md.",
        stacklevel=2,
    )


def check_dataset(dataset_path: str, streaming: bool) -> None:
    """
    Checks that a dataset holds at least one row.

    Raises:
        ValueError: if it is empty or has no split `train`.
    """
    try:
        dataset: Any = load_dataset(dataset_path, split="train", streaming=streaming)
        is_empty = next(iter(dataset), None) is None
    except ValueError as error:
        raise ValueError(
            f"The dataset {dataset_path!r} gives nothing to train on: {error}"
        ) from error
    if is_empty:
        raise ValueError(f"The dataset {dataset_path!r} is empty.")


@torch.no_grad()
def hook_width(model: HookedRootModule, hook_name: str, head: int | None = None) -> int:
    """
    Width of the activations that `hook_name` gives: of one head, or of all of them together.

    Raises:
        ValueError: if the model has no such hook, naming hooks that are like it, or no such
            head.
    """
    if hook_name not in model.hook_dict:
        near = get_close_matches(hook_name, list(model.hook_dict), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"The model has no hook named {hook_name!r}.{hint}")
    device = next(model.parameters()).device
    tokens = torch.zeros((1, 2), dtype=torch.long, device=device)
    _, cache = model.run_with_cache(tokens, names_filter=[hook_name], prepend_bos=False)
    of_a_token = cache[hook_name][0, 0]
    if head is None:
        return of_a_token.numel()
    if of_a_token.ndim != 2 or not 0 <= head < len(of_a_token):
        heads = len(of_a_token) if of_a_token.ndim == 2 else "no"
        raise ValueError(f"{hook_name!r} has {heads} heads, and thus no head {head}.")
    return of_a_token.shape[1]


def check_hook(model: HookedRootModule, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """
    Checks that the hook exists and is as wide as the SAE.

    Raises:
        ValueError: if it does not, or is not.
    """
    width = hook_width(model, cfg.hook_name, cfg.hook_head_index)
    if width != cfg.sae.d_in:
        raise ValueError(
            f"The hook {cfg.hook_name!r} gives {width} dimensions but the SAE has "
            f"d_in={cfg.sae.d_in}. Set d_in to {width}."
        )
