"""Holds joint SAEs against solo ones on the same held-out tokens."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sae_lens import SAE
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from simple_parsing import field

from sae_lens_meta.checks import check_saved_sae
from sae_lens_meta.evaluation.autointerp.results import (
    AutoInterpretation,
    summarize,
)
from sae_lens_meta.evaluation.comparison import FORMAT, Comparison, SplitCounts
from sae_lens_meta.evaluation.differences import differences
from sae_lens_meta.evaluation.entries import (
    Entry,
    Role,
    check_comparable,
    named_entries,
    variants,
)
from sae_lens_meta.evaluation.evaluate import META_STEPS
from sae_lens_meta.evaluation.family import Family
from sae_lens_meta.evaluation.passes import Job, plan_passes, run_passes
from sae_lens_meta.evaluation.progress import claim, discard, fingerprint
from sae_lens_meta.evaluation.report import write_report
from sae_lens_meta.evaluation.source import (
    ActivationSource,
    SourceConfig,
    load_source,
)
from sae_lens_meta.evaluation.splitting import SPLIT_SCORE
from sae_lens_meta.evaluation.verdict import verdict
from sae_lens_meta.hashing import file_sha256

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
        n_candidates (int): Splitting candidates to list; none need no counts of the pairs of
            latents of two SAEs, which take 4 bytes for each, twice where there is a second
            solo SAE.
        max_memory_gb (float): Pair counts kept at a time; more SAEs take more passes.
        meta_steps (int): Adam steps of each meta SAE that is fitted to a decoder; by default
            SAEBench's.
    """

    joint: list[Path] = _paths()
    solo: list[Path] = _paths()
    solo_equal_l2: list[Path] = _paths(default_factory=list, required=False)
    output: Path = Path("comparison")
    ce_tokens: int = 16_384
    min_fired: int = 30
    n_candidates: int = 100
    max_memory_gb: float = 8.0
    meta_steps: int = META_STEPS


def compare(
    cfg: CompareConfig,
    source_cfg: SourceConfig,
    source: ActivationSource | None = None,
) -> Comparison:
    """
    Runs every measure on all SAEs; writes comparison.json, its schema and report.html.

    What is done stays in `cfg.output / "progress"` until the end: the same call goes on where
    an earlier one was killed.

    Args:
        cfg: what to compare.
        source_cfg: text and language model; text that training did not see.
        source: what `source_cfg` names, where it is loaded already.

    Raises:
        ValueError: if there is no joint or no solo SAE, the SAEs do not read the same
            activations, a path stands twice, solo SAEs are of several settings, a decoder
            row has no direction, the text is empty, fewer than two latents fire in all
            SAEs, or the folder keeps progress of another comparison.
        FileNotFoundError: if a path does not exist.
    """
    roles: dict[Role, list[Path]] = {
        "solo": cfg.solo,
        "solo_equal_l2": cfg.solo_equal_l2,
        "joint": cfg.joint,
    }
    entries = named_entries(roles)
    saes = {e.id: check_saved_sae(e.path, source_cfg.device) for e in entries}
    has_model = source_cfg.model is not None
    check_comparable({e.name: saes[e.id] for e in entries}, any_model=has_model)
    variant = variants(entries, saes)
    solo, joint = (
        next(e.id for e in entries if e.role == role) for role in ("solo", "joint")
    )
    # what a second solo SAE seems to split, another seed alone does
    second = next((e.id for e in entries if e.role == "solo" and e.id != solo), None)
    split = Job(solo, joint)
    split_null = Job(solo, second) if second else None
    between = [split, split_null] if cfg.n_candidates > 0 else []
    jobs = [job for job in between if job] + list(map(Job, saes))
    passes = plan_passes(jobs, saes, cfg.max_memory_gb)
    progress = cfg.output / "progress"
    claim(progress, _fingerprint(cfg, source_cfg, entries))

    source = source or load_source(source_cfg, saes[solo])
    run_passes(passes, saes, source, source_cfg.tokens, progress)

    family = Family(saes, source, progress, solo)
    latents = family.compared_latents(cfg.min_fired)
    found = {
        e.name: family.result(
            e, variant[e.id], latents[e.id], cfg.ce_tokens, cfg.meta_steps
        )
        for e in entries
    }
    comparison = _new_comparison(cfg, source_cfg, saes[solo])
    comparison.saes = [result for result, _ in found.values()]
    comparison.n_tokens = comparison.saes[0].evaluation.reconstruction.n_tokens
    if cfg.n_candidates > 0:
        splits = family.splits(split, cfg.n_candidates)
        candidates = family.with_contexts(split, splits.candidates, source_cfg.tokens)
        comparison.splitting = candidates
        comparison.vocabulary = family.vocabulary(candidates)
        null = family.splits(split_null, 0).n_split if split_null else None
        comparison.split_counts = SplitCounts(
            SPLIT_SCORE, splits.n_latents, splits.n_split, null
        )
    resampled = {name: figures for name, (_, figures) in found.items()}
    comparison.differences = differences(comparison.variants(), resampled)
    comparison.warnings = _warnings(comparison, source_cfg, saes.values())
    comparison.verdict = verdict(comparison)
    comparison.save(cfg.output)
    write_report(comparison, cfg.output / "report.html")
    discard(progress)
    return comparison


def check_measured(paths: Iterable[Path], folder: Path) -> None:
    """
    Checks that the comparison in `folder` measured the SAEs in `paths`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it measured others.
    """
    comparison = Comparison.load(folder / "comparison.json")
    measured = {sae.weights_sha256 for sae in comparison.saes}
    for path in paths:
        check_saved_sae(path)
        if file_sha256(path / SAE_WEIGHTS_FILENAME) not in measured:
            raise ValueError(
                f"{folder / 'comparison.json'} did not measure the SAE at {path}, or one of "
                "other weights. Run `sae-lens-meta compare` on it."
            )


def add_autointerp(found: AutoInterpretation, folder: Path) -> None:
    """
    Adds a judge's scores to the comparison.json in `folder` and writes its report anew.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it measured other SAEs.
    """
    comparison = Comparison.load(folder / "comparison.json")
    names = {sae.weights_sha256: sae.name for sae in comparison.saes}
    comparison.autointerp = summarize(found, names)
    comparison.save(folder)
    write_report(comparison, folder / "report.html")


def _fingerprint(
    cfg: CompareConfig, source_cfg: SourceConfig, entries: list[Entry]
) -> str:
    # what is counted does not depend on these two
    counted = {k: v for k, v in _plain(cfg).items() if k not in ("output", "min_fired")}
    paths = [entry.path for entry in entries]
    of = [FORMAT, counted, _plain(source_cfg)]
    return fingerprint(of, paths, source_cfg.dataset)


def _new_comparison(
    cfg: CompareConfig, source_cfg: SourceConfig, solo: SAE[Any]
) -> Comparison:
    """What the comparison is made with, without results."""
    metadata = solo.cfg.metadata
    return Comparison(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        source=_plain(source_cfg) | {"model": source_cfg.model or metadata.model_name},
        hook=metadata.hook_name,
        settings=_plain(cfg),
    )


def _warnings(
    comparison: Comparison, source_cfg: SourceConfig, saes: Iterable[SAE[Any]]
) -> list[str]:
    warnings = []
    if comparison.n_tokens < source_cfg.tokens - source_cfg.context_size:
        warnings.append(
            f"The text ended after {comparison.n_tokens:,} of {source_cfg.tokens:,} tokens."
        )
    if any(_may_have_seen(sae, source_cfg) for sae in saes):
        warnings.append(
            f"An SAE was trained on {source_cfg.dataset!r} too, and does not record that "
            "these documents were kept from its training. Pass over those that it has read "
            "with --first_document."
        )
    for sae in comparison.saes:
        if not sae.training:
            warnings.append(f"{sae.name} does not record how it was trained.")
    return warnings


def _may_have_seen(sae: SAE[Any], source_cfg: SourceConfig) -> bool:
    if sae.cfg.metadata.dataset_path != source_cfg.dataset:
        return False
    kept = sae.cfg.metadata.held_out or {}
    last = source_cfg.first_document + source_cfg.held_out_documents
    is_same_order = kept.get("text_seed") == source_cfg.text_seed
    is_passed_over = source_cfg.first_document > 0 and not kept
    return not (is_passed_over or (is_same_order and last <= kept["documents"]))


def _plain(cfg: Any) -> dict[str, Any]:
    return TypeAdapter(type(cfg)).dump_python(cfg, mode="json")
