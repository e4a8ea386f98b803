"""Holds groups of SAEs against each other on the same held-out tokens."""

import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.activations.measured_on import (
    MeasuredOn,
    SourceConfig,
)
from sae_lens_meta.activations.part import Part, parts
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.comparison.config import CompareConfig
from sae_lens_meta.comparison.counting import (
    merge_parts,
    part_folder,
    run_passes,
)
from sae_lens_meta.comparison.differences import differences
from sae_lens_meta.comparison.earlier import extras_to_keep, made_before
from sae_lens_meta.comparison.family import Family
from sae_lens_meta.comparison.independence import (
    other_texts,
    repeated_trainings,
)
from sae_lens_meta.comparison.plan import Plan, plain, planned
from sae_lens_meta.comparison.progress import claim, discard
from sae_lens_meta.comparison.result import FORMAT, Comparison, SplitCounts
from sae_lens_meta.comparison.verdict import verdict
from sae_lens_meta.destination import held
from sae_lens_meta.measures.model_cost import check_has_losses
from sae_lens_meta.measures.splitting import SPLIT_SCORE
from sae_lens_meta.saved import SavedSAE

PARTS = "parts"  # how many a comparison is counted in
PACKAGES = ("sae-lens-meta", "sae-lens", "torch", "transformers", "numpy")


def compare(
    cfg: CompareConfig,
    source_cfg: SourceConfig,
    model: HookedRootModule | None = None,
    remarks: Sequence[str] = (),
) -> Comparison:
    """
    Runs every measure on all SAEs; writes comparison.json and its schema.

    What is done stays in `cfg.output / "progress"` until the end: the same call goes on where
    an earlier one was killed, and one that was finished gives what is there.

    Args:
        cfg: what to compare.
        source_cfg: text and language model; text that training did not see.
        model: the language model, where it is loaded already.
        remarks: what the reader should know of how the SAEs were chosen; among the warnings.

    Raises:
        ValueError: if there is no baseline or no other SAE, a path or the same weights stand twice,
            an SAE is not what it is given as, thresholds were taken by different rules, the
            SAEs do not read the same activations, the baseline is of several settings, a decoder
            row has no direction, the text is empty, fewer than two latents fire in all
            SAEs, or the folder keeps another comparison or its progress, or is being written by
            another run.
        OSError: if a path does not exist, or nothing can be written to the folder.
    """
    plan = planned(cfg, source_cfg)
    with held(cfg.output):
        return _compare(plan, model, remarks)


def count_part(
    cfg: CompareConfig,
    source_cfg: SourceConfig,
    part: Part,
    model: HookedRootModule | None = None,
) -> None:
    """
    Counts a part of the tokens for `compare`, which merges all parts that it finds.

    Several processes can work on the parts of one comparison at once, each on a part of its own.

    Raises:
        ValueError, OSError: as `compare`.
    """
    plan = planned(cfg, source_cfg)
    progress = plan.progress
    if made_before(plan.path, plan.fingerprint, cfg.min_fired, cfg.overwrite):
        return
    cfg.output.mkdir(parents=True, exist_ok=True)
    with FileLock(cfg.output / ".claim.lock"):  # of parts that begin at once
        claim(progress, plan.fingerprint)
        (progress / PARTS).write_text(str(part.of))
    source, _ = load_source(source_cfg, list(plan.saved.values()), model=model)
    folder = progress / part_folder(part)
    run_passes(plan.passes, plan.saes, source, source_cfg.tokens, folder, part)


def _compare(
    plan: Plan, model: HookedRootModule | None, remarks: Sequence[str]
) -> Comparison:
    cfg, source_cfg, progress = plan.cfg, plan.source_cfg, plan.progress
    entries, saved, saes, split = plan.entries, plan.saved, plan.saes, plan.split
    variant = plan.variant
    if made := made_before(plan.path, plan.fingerprint, cfg.min_fired, cfg.overwrite):
        return made
    extras = extras_to_keep(plan.path, entries)
    claim(progress, plan.fingerprint)

    source, measured_on = load_source(source_cfg, list(saved.values()), model=model)
    check_has_losses(source.reading)
    if (progress / PARTS).is_file():
        of = parts(int((progress / PARTS).read_text()))
        merge_parts(plan.passes, saes, progress, of)
    run_passes(plan.passes, saes, source, source_cfg.tokens, progress)

    family = Family(saes, source, source_cfg.tokens, progress, plan.base)
    latents = family.compared_latents(cfg.min_fired)
    first = {variant[e.id]: e for e in reversed(entries)}.values()
    found = {
        e.name: family.result(
            e, variant[e.id], latents[e.id], cfg.ce_tokens, cfg.meta_steps, e in first
        )
        for e in entries
    }
    comparison = _new_comparison(cfg, measured_on)
    comparison.saes = [result for result, _ in found.values()]
    comparison.n_tokens = comparison.saes[0].evaluation.reconstruction.n_tokens
    comparison.objections = [
        *repeated_trainings(entries, saved),
        *other_texts(entries, saved),
    ]
    if cfg.n_candidates > 0:
        splits = family.splits(split, cfg.n_candidates)
        candidates = family.with_contexts(split, splits.candidates, source_cfg.tokens)
        comparison.splitting = candidates
        comparison.vocabulary = family.vocabulary(candidates)
        null = family.splits(plan.split_null, 0).n_split if plan.split_null else None
        comparison.split_counts = SplitCounts(
            SPLIT_SCORE,
            splits.n_latents,
            cfg.baseline,
            plan.other_group,
            splits.n_split,
            null,
        )
    resampled = {name: figures for name, (_, figures) in found.items()}
    comparison.differences = differences(comparison, resampled)
    measured_on.warnings += source.shortfall(source_cfg.tokens)
    comparison.warnings = [*remarks, *_warnings(comparison)]
    comparison.verdict = verdict(comparison)
    comparison.extras = extras
    comparison.fingerprint = plan.fingerprint
    comparison.save(cfg.output)
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
    for path in paths:
        saved = SavedSAE.read(path)
        if not any(sae.is_of(saved) for sae in comparison.saes):
            raise ValueError(
                f"{folder / 'comparison.json'} did not measure the SAE at {path}, or one of "
                "other weights. Run `sae-lens-meta compare` on it."
            )


def _new_comparison(cfg: CompareConfig, measured_on: MeasuredOn) -> Comparison:
    """What the comparison is made with, without results."""
    return Comparison(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        source=measured_on,
        settings=plain(cfg),
        baseline=cfg.baseline,
        control=cfg.control if cfg.control in cfg.groups else None,
    )


def _warnings(comparison: Comparison) -> list[str]:
    source = comparison.source
    found = [*comparison.objections, *source.warnings]
    for sae in comparison.saes:
        if not sae.training:
            found.append(f"{sae.name} does not record how it was trained.")
    return found
