"""Holds joint SAEs against solo ones on the same held-out tokens."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sae_lens import SAE
from simple_parsing import field

from sae_lens_meta.checks import check_saved_sae
from sae_lens_meta.evaluation.comparison import FORMAT, Comparison, Role
from sae_lens_meta.evaluation.differences import differences
from sae_lens_meta.evaluation.family import Family
from sae_lens_meta.evaluation.passes import Job, plan_passes, run_passes
from sae_lens_meta.evaluation.source import SourceConfig, load_source
from sae_lens_meta.evaluation.verdict import verdict
from sae_lens_meta.text import PYDOC, TEXT_FILES

PACKAGES = ("sae-lens-meta", "sae-lens", "torch", "transformers", "numpy")


def _paths(**how: Any) -> Any:
    """An option of several folders, which may also be given several times."""
    return field(nargs="+", action="extend", type=Path, **how)


@dataclass
class CompareConfig:
    """
    What to compare, and where to write it.

    Args:
        joint (list[Path]): Folders of joint SAEs, of one or several settings and seeds.
        solo (list[Path]): Folders of solo SAEs trained on the same tokens; three or more seeds
            for an effect to be claimed.
        solo_equal_l2 (list[Path]): Folders of solo SAEs brought to the L2 and L0 of the joint
            ones, which tell what worse reconstruction alone does.
        output (Path): Folder that receives comparison.json, its schema and report.html; what
            is half done is kept there too.
        ce_tokens (int): Tokens to run the whole language model on, for each SAE.
        min_fired (int): Tokens that a latent must fire on in every SAE to be compared.
        n_candidates (int): Splitting candidates to list.
        max_memory_gb (float): Pair counts kept at a time; more SAEs take more passes.
    """

    joint: list[Path] = _paths()
    solo: list[Path] = _paths()
    solo_equal_l2: list[Path] = _paths(default_factory=list, required=False)
    output: Path = Path("comparison")
    ce_tokens: int = 16_384
    min_fired: int = 30
    n_candidates: int = 100
    max_memory_gb: float = 8.0


def compare(cfg: CompareConfig, source_cfg: SourceConfig) -> Comparison:
    """
    Runs every measure on all SAEs and writes comparison.json with its schema.

    What is done stays in `cfg.output / "progress"` until the end: the same call goes on where
    an earlier one was killed.

    Raises:
        ValueError: if the SAEs do not read the same activations, a path stands twice, a
            decoder row has no direction, the text is empty, fewer than two latents fire
            in all SAEs, or the folder keeps progress of another comparison.
        FileNotFoundError: if a path does not exist.
    """
    entries = _entries(cfg)
    saes = {e.name: check_saved_sae(e.path, source_cfg.device) for e in entries}
    check_comparable(saes)
    solo = next(e.name for e in entries if e.role == "solo")
    split = Job(solo, next(e.name for e in entries if e.role == "joint"))
    passes = plan_passes([split, *map(Job, saes)], saes, cfg.max_memory_gb)
    progress = cfg.output / "progress"
    _claim(progress, _fingerprint(cfg, source_cfg, entries))
    source = load_source(source_cfg, saes[solo])
    run_passes(passes, saes, source, source_cfg.tokens, progress)

    family = Family(saes, source, progress, solo)
    compared = family.compared_latents(cfg.min_fired)
    results, resampled = [], {}
    for e in entries:
        result, resampled[e.name] = family.result(
            e.name, e.path, e.role, compared[e.name], cfg.ce_tokens
        )
        results.append(result)
    splitting = family.splitting(split, cfg.n_candidates, source_cfg.tokens)
    metadata = saes[solo].cfg.metadata
    comparison = Comparison(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        source=_plain(source_cfg) | {"model": source_cfg.model or metadata.model_name},
        hook=metadata.hook_name,
        settings=_plain(cfg),
        n_tokens=results[0].evaluation.reconstruction.n_tokens,
        saes=results,
        differences=[],
        splitting=splitting,
        vocabulary=family.vocabulary(splitting),
    )
    comparison.differences = differences(comparison.variants(), resampled)
    comparison.warnings = _warnings(comparison, source_cfg, metadata.dataset_path)
    comparison.verdict = verdict(comparison)
    comparison.save(cfg.output)
    shutil.rmtree(progress)
    return comparison


def check_comparable(saes: dict[str, SAE[Any]]) -> None:
    """
    Checks that all SAEs read the same activations.

    Raises:
        ValueError: naming the first that differs from the first of all, and in what.
    """
    names = iter(saes)
    first = next(names)
    for name in names:
        for what, get in _MUST_AGREE.items():
            if get(saes[name]) != get(saes[first]):
                raise ValueError(
                    f"{name!r} and {first!r} cannot be compared: their {what} are "
                    f"{get(saes[name])!r} and {get(saes[first])!r}. Compare SAEs of the "
                    "same hook of the same model."
                )


_MUST_AGREE: dict[str, Callable[[SAE[Any]], Any]] = {
    "d_in": lambda sae: sae.cfg.d_in,
    "hook_name": lambda sae: sae.cfg.metadata.hook_name,
    "hook_head_index": lambda sae: sae.cfg.metadata.hook_head_index,
    "model_name": lambda sae: sae.cfg.metadata.model_name,
    "prepend_bos": lambda sae: sae.cfg.metadata.prepend_bos,
}


@dataclass
class _Entry:
    name: str
    path: Path
    role: Role


def _entries(cfg: CompareConfig) -> list[_Entry]:
    """The SAEs, each named by as much of the end of its path as tells it from the others."""
    roles: dict[Role, list[Path]] = {
        "solo": cfg.solo,
        "solo_equal_l2": cfg.solo_equal_l2,
        "joint": cfg.joint,
    }
    if not cfg.solo or not cfg.joint:
        raise ValueError("A comparison takes at least one --joint and one --solo SAE.")
    paths = [path.resolve() for given in roles.values() for path in given]
    if repeated := {str(path) for path in paths if paths.count(path) > 1}:
        raise ValueError(f"Given more than once: {', '.join(sorted(repeated))}.")
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return [
        _Entry("/".join(path.resolve().parts[-length:]), path, role)
        for role, given in roles.items()
        for path in given
    ]


def _claim(progress: Path, fingerprint: str) -> None:
    """Makes `progress` this comparison's own, or finds that it is."""
    stamp = progress / "fingerprint"
    if stamp.exists() and stamp.read_text() != fingerprint:
        raise ValueError(
            f"{progress} keeps the progress of a comparison of other SAEs, text or settings. "
            "Delete it or give another --output."
        )
    progress.mkdir(parents=True, exist_ok=True)
    stamp.write_text(fingerprint)


def _fingerprint(
    cfg: CompareConfig, source_cfg: SourceConfig, entries: list[_Entry]
) -> str:
    """Of everything that the counts depend on, the weights included."""
    digest = hashlib.sha256(json.dumps([_plain(cfg), _plain(source_cfg)]).encode())
    for entry in entries:
        for file in sorted(entry.path.glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _warnings(
    comparison: Comparison, source_cfg: SourceConfig, trained_on: str | None
) -> list[str]:
    warnings = []
    if comparison.n_tokens < source_cfg.tokens - source_cfg.context_size:
        warnings.append(
            f"The text ended after {comparison.n_tokens:,} of {source_cfg.tokens:,} tokens."
        )
    is_split_by_demo = source_cfg.dataset.endswith((*TEXT_FILES, PYDOC))
    is_training_text = source_cfg.dataset == trained_on and not is_split_by_demo
    if is_training_text and source_cfg.first_document == 0:
        warnings.append(
            f"The SAEs were trained on {trained_on!r} too, most likely on these very "
            "documents. Pass over those with --first_document."
        )
    for sae in comparison.saes:
        if not sae.training:
            warnings.append(f"{sae.name} does not record how it was trained.")
    return warnings


def _plain(cfg: Any) -> dict[str, Any]:
    return TypeAdapter(type(cfg)).dump_python(cfg, mode="json")
