"""What a release uploads: checked, without paths and secrets, in a folder to look at."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.constants import (
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)
from safetensors import SafetensorError, safe_open

from sae_lens_meta.comparison.result import ComparedSAE, Comparison
from sae_lens_meta.hashing import file_sha256
from sae_lens_meta.hooks import transformer_lens_name
from sae_lens_meta.publishing.objective import Objective, objective_of
from sae_lens_meta.publishing.scrub import scrubbed
from sae_lens_meta.report import write_report
from sae_lens_meta.saved import Reading, SavedSAE
from sae_lens_meta.training.carried import META_FOLDER
from sae_lens_meta.zoo.releases import check_inside

CARD = "README.md"
BESIDE = ("comparison.json", "comparison.schema.json", "report.html", CARD)
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


@dataclass
class Package:
    """
    Files of a release.

    Attributes:
        folder: where they are.
        hook: whose activations the SAE reads, also the name of its folder.
        objective: what the SAE was trained for.
        meta_path: folder of the meta SAE; None where the SAE was trained without one.
        names: paths in the repository, which are those below `folder`.
        metadata: of the SAE, scrubbed.
        comparison: that measured it, scrubbed.
        measured: the SAE's own part of it.
    """

    folder: Path
    hook: str
    objective: Objective
    meta_path: str | None
    names: list[str]
    metadata: Mapping[str, Any]
    comparison: Comparison
    measured: ComparedSAE

    def sha256(self) -> dict[str, str]:
        """Of every file, by name."""
        return {name: file_sha256(self.folder / name) for name in self.names}


def make_package(
    path: Path, comparison_path: Path, folder: Path, model: str | None = None
) -> Package:
    """
    Checks a saved SAE and writes what is to be uploaded to `folder`, but for its card.

    Args:
        path: folder of the SAE, in `meta/` the meta SAE that it was trained with, if it was.
        comparison_path: comparison.json that measured these weights.
        folder: receives the files.
        model: the language model's name on the Hub, which the published config records in the
            place of a path on this machine.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if an SAE is not one that stock SAELens loads, has no calibrated
            thresholds or weights that are not finite, or the comparison is of others.
    """
    sae = _checked(path)
    if folder.resolve() in (path.resolve(), comparison_path.parent.resolve()):
        raise ValueError(
            f"{folder} holds what is to be published. Give another --output."
        )
    if not sae.cfg.metadata.calibration:
        raise ValueError(
            f"The thresholds of {path} are not calibrated. Run `sae-lens-meta calibrate "
            f"{path}`, then `sae-lens-meta compare`, which must measure the new ones."
        )
    objective = objective_of(sae.cfg.metadata.training_architecture_details or {})
    if objective.has_meta_sae:
        _check_meta_sae(path, sae)
    reading = SavedSAE.read(path).reading
    hook = reading.transformer_lens_hook or reading.hook
    if not hook:
        raise ValueError(f"{path / SAE_CFG_FILENAME} does not record a hook_name.")
    if check_inside(hook).split("/")[0].lower() in {name.lower() for name in BESIDE}:
        raise ValueError(f"The hook {hook!r} cannot be the name of a folder.")
    comparison = _scrubbed_comparison(comparison_path)
    measured = _measured(comparison, path, comparison_path)
    read, fixed = comparison.source.hook, (comparison.baseline, comparison.control)
    if (transformer_lens_name(read) or read) != hook or measured.group in fixed:
        raise ValueError(
            f"{comparison_path} has the SAE as {measured.group!r} on the hook {read!r}; what is "
            f"published is no baseline or control, on {hook!r}."
        )
    names = _copied(path, folder, hook, public_metadata(reading, model))
    meta_path = f"{hook}/{META_FOLDER}" if objective.has_meta_sae else None
    if meta_path:
        names += _copied(path / META_FOLDER, folder, meta_path)
    comparison.save(folder)
    write_report(comparison, folder / "report.html")
    names += [name for name in BESIDE if name != CARD]
    metadata = json.loads((folder / hook / SAE_CFG_FILENAME).read_text())["metadata"]
    return Package(
        folder, hook, objective, meta_path, names, metadata, comparison, measured
    )


def _check_meta_sae(path: Path, sae: SAE[Any]) -> None:
    meta_sae = _checked(path / META_FOLDER)
    trained_with = sae.cfg.metadata.training_architecture_details or {}
    shape = (meta_sae.cfg.d_in, meta_sae.cfg.d_sae)
    if shape != (sae.cfg.d_in, trained_with.get("meta_d_sae", shape[1])):
        raise ValueError(
            f"{path / META_FOLDER} has d_in={shape[0]} and d_sae={shape[1]}, which are not "
            f"those of the meta SAE that {path} was trained with: it belongs to another SAE."
        )


def _checked(path: Path) -> SAE[Any]:
    pickles = [f.name for f in path.glob("*") if f.suffix in PICKLES]
    if pickles and not (path / SAE_WEIGHTS_FILENAME).exists():
        raise ValueError(
            f"{path} holds {pickles[0]}, a pickle, which is never published. Save the SAE "
            f"with `save_model`, which writes {SAE_WEIGHTS_FILENAME}."
        )
    sae = SavedSAE.read(path).load()
    if not type(sae).__module__.startswith("sae_lens.") or not hasattr(
        sae, "threshold"
    ):
        raise ValueError(
            f"{path} is of architecture {sae.cfg.architecture()!r}. Only a jumprelu SAE, "
            "which stock SAELens loads, can be published: save it with `save_inference_model`."
        )
    for name in (SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME):
        if (path / name).exists():
            _check_tensors(path / name, sae.cfg.d_sae)
    return sae


def _check_tensors(path: Path, d_sae: int) -> None:
    """A safetensors file carries free text too, and sparsity is loaded by SAELens as it is."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = {k: v for k, v in (file.metadata() or {}).items() if k != "format"}
            sparsity = (
                file.get_tensor("sparsity") if path.name == SPARSITY_FILENAME else None
            )
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it is no safetensors file, or damaged."
        ) from error
    if notes:
        raise ValueError(
            f"{path} carries the notes {sorted(notes)} in its header, which would be "
            "published. Save the SAE again with `save_model`."
        )
    if sparsity is not None and (
        sparsity.shape != (d_sae,) or not torch.isfinite(sparsity).all()
    ):
        raise ValueError(
            f"{path} is not one finite number for each of {d_sae} latents."
        )


def _scrubbed_comparison(path: Path) -> Comparison:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. Measure the SAE with `sae-lens-meta compare` and give its "
            "output folder with --comparison."
        )
    plain = json.loads(path.read_text())
    # words of the text that contexts are shown from: they are no paths of this machine
    words = plain.pop("vocabulary", {})
    return Comparison.from_plain(scrubbed(plain) | {"vocabulary": words})


def _measured(comparison: Comparison, path: Path, comparison_path: Path) -> ComparedSAE:
    saved = SavedSAE.read(path)
    for sae in comparison.saes:
        if sae.is_of(saved):
            return sae
    raise ValueError(
        f"{comparison_path} measured other weights than those of {path}, for instance from "
        f"before they were calibrated, or its {SAE_CFG_FILENAME} was changed since. Run `sae-lens-meta compare` again."
    )


def public_metadata(reading: Reading, model: str | None) -> dict[str, Any]:
    """
    What a published config says of its model and hook, so that others find both.

    The model by the Hub's name, and the file that it was converted from if it was; the hook by
    TransformerLens's name, which `HookedSAETransformer` and `SAETransformerBridge` attach to, and
    by that in transformers, under SAELens's key for it.
    """
    named: dict[str, Any] = {
        "model_name": model or reading.model_on_the_hub or reading.model,
        "hook_name": reading.transformer_lens_hook or reading.hook,
    }
    if reading.model_file is not None:
        named["model_file"] = reading.model_file
    if reading.model_file_sha256 is not None:
        named["model_file_sha256"] = reading.model_file_sha256
    if reading.hook_in_transformers not in (None, named["hook_name"]):
        named["hf_hook_name"] = reading.hook_in_transformers
    return named


def _copied(
    source: Path, folder: Path, path: str, metadata: Mapping[str, Any] = {}
) -> list[str]:
    """Copies the files of one SAE, its config scrubbed; their names in the repository."""
    target = folder / path
    target.mkdir(parents=True, exist_ok=True)
    cfg = json.loads((source / SAE_CFG_FILENAME).read_text())
    cfg["metadata"] |= metadata
    (target / SAE_CFG_FILENAME).write_text(json.dumps(scrubbed(cfg), indent=2) + "\n")
    names = [SAE_CFG_FILENAME]
    for name in (SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
            names.append(name)
    return [f"{path}/{name}" for name in names]
