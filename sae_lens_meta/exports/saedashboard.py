"""
What SAEDashboard takes to draw latents, or to make Neuronpedia's files of them.

SAEDashboard wants older versions of packages than this one may have beside it, so it runs in an environment of
its own: what is written here is the SAE, the tokens, and a script that needs nothing but SAEDashboard. The
files for Neuronpedia are made by SAEDashboard's own converter.
"""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors.torch import save_file

from sae_lens_meta.activations.language_model import model_path
from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.saved import Reading, SavedSAE

SCRIPT = "dashboards.py"
VERSION = "0.8.0"
_LAYER = re.compile(r"blocks\.(\d+)\.")


def check_can_be_drawn(saved: SavedSAE, latents: list[int]) -> None:
    """
    Checks that SAEDashboard can read the SAE.

    Raises:
        ValueError: if its hook has no name in TransformerLens, or a latent's decoder row has no direction.
    """
    hook = saved.reading.transformer_lens_hook or ""
    if not _LAYER.match(hook):
        raise ValueError(
            f"{saved.path} reads the hook {saved.reading.hook!r}, which has no name of a block in "
            "TransformerLens, and SAEDashboard finds no other."
        )
    W_dec: Any = saved.load().W_dec
    norms = W_dec[latents].norm(dim=1)
    without = [latents[i] for i in (norms == 0).nonzero()[:, 0].tolist()]
    if without:
        raise ValueError(
            f"The decoder rows of the latents {', '.join(map(str, without[:5]))}"
            f"{' and others' if len(without) > 5 else ''} of {saved.path} are 0: they point "
            "nowhere, and SAEDashboard divides by their length. Leave them out with --latents."
        )


def write_for_saedashboard(
    saved: SavedSAE,
    to: Literal["saedashboard", "neuronpedia"],
    latents: list[int],
    folder: Path,
    source: ActivationSource,
    measured_on: MeasuredOn,
) -> tuple[list[str], int]:
    """
    Writes the SAE, the tokens, what to draw, and the script.

    Args:
        saved: the SAE.
        to: whether the script draws a page, or makes Neuronpedia's files.
        latents: which.
        folder: that receives them.
        source: of the tokens.
        measured_on: what they are.

    Returns:
        How to call the script, a line each, and how many tokens there are.
    """
    hook = str(saved.reading.transformer_lens_hook)
    _copy_sae(saved, folder / "sae", hook)
    tokens = torch.cat(list(source.tokens(measured_on.tokens)))
    save_file({"tokens": tokens.cpu().long()}, folder / "tokens.safetensors")
    reading = source.reading
    settings = {
        "to": to,
        "model": model_path(str(reading.model)),
        "model_kwargs": reading.model_kwargs or {},
        "hook": hook,
        "latents": latents,
        "ignored_positions": _ignored_positions(reading),
        "ignored_tokens": source.special_tokens or [],
        "dataset": Path(measured_on.dataset).name,
        # as Neuronpedia calls them
        "model_id": _name(_model(saved.reading, measured_on)),
        "layer": int(_LAYER.match(hook)[1]),  # type: ignore[index]
        "sae_set": _name(
            saved.path.parent.name if _LAYER.match(saved.path.name) else saved.path.name
        ),
    }
    text = json.dumps(settings, indent=1)
    (folder / "export.json").write_text(text + "\n", encoding="utf-8")
    script = files("sae_lens_meta.exports") / SCRIPT
    (folder / SCRIPT).write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    made = "dashboards.html" if to == "saedashboard" else "batch-*.json"
    return [
        f"Written: {folder}, {len(latents)} latents, {tokens.numel():,} tokens",
        f"In an environment with sae-dashboard {VERSION}: python {folder / SCRIPT}",
        f"writes {folder / made}",
    ], tokens.numel()


def _copy_sae(saved: SavedSAE, folder: Path, hook: str) -> None:
    """The SAE, its hook by TransformerLens's name."""
    folder.mkdir(exist_ok=True)
    cfg = json.loads((saved.path / SAE_CFG_FILENAME).read_text(encoding="utf-8"))
    cfg["metadata"]["hook_name"] = hook
    text = json.dumps(cfg, indent=1)
    (folder / SAE_CFG_FILENAME).write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(saved.path / SAE_WEIGHTS_FILENAME, folder / SAE_WEIGHTS_FILENAME)


def _ignored_positions(reading: Reading) -> list[int]:
    """Positions of a context that the SAE does not read."""
    every = range(int(reading.context_size or 0))
    read = every[slice(*(reading.seqpos_slice or (None,)))]
    return [position for position in every if position not in read]


def _model(recorded: Reading, measured_on: MeasuredOn) -> str:
    """The model's public name, where it is the recorded one."""
    if "model" in measured_on.options:
        return measured_on.model
    return recorded.model_on_the_hub or recorded.model or measured_on.model


def _name(path: str) -> str:
    return Path(path).name.lower()
