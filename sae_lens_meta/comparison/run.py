"""Holds groups of SAEs against each other on the same held-out tokens."""

import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.activations.comparable import check_comparable
from sae_lens_meta.activations.measured_on import (
    EVERY_TOKEN,
    NEEDED,
    MeasuredOn,
    SourceConfig,
)
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.activations.text import text_identity
from sae_lens_meta.comparison.config import CompareConfig
from sae_lens_meta.comparison.counting import Job, plan_passes, run_passes
from sae_lens_meta.comparison.differences import differences
from sae_lens_meta.comparison.earlier import extras_to_keep, made_before
from sae_lens_meta.comparison.family import Family
from sae_lens_meta.comparison.independence import (
    check_members,
    other_texts,
    repeated_trainings,
)
from sae_lens_meta.comparison.members import Entry, named_entries, variants
from sae_lens_meta.comparison.progress import claim, discard, fingerprint
from sae_lens_meta.comparison.result import FORMAT, Comparison, SplitCounts
from sae_lens_meta.comparison.verdict import verdict
from sae_lens_meta.destination import held
from sae_lens_meta.measures.splitting import SPLIT_SCORE
from sae_lens_meta.saved import SavedSAE

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
    entries = _checked_entries(cfg, source_cfg)
    with held(cfg.output):
        return _compare(cfg, source_cfg, entries, model, remarks)


def _checked_entries(cfg: CompareConfig, source_cfg: SourceConfig) -> list[Entry]:
    """The SAEs to compare, by what they record."""
    entries = named_entries(cfg.groups, cfg.baseline)
    saved = {entry.id: entry.saved for entry in entries}
    for one in saved.values():
        one.check_is_sae()
    check_members(entries, saved)
    given = {name for name in NEEDED if getattr(source_cfg, name) is not None}
    check_comparable({entry.name: entry.saved for entry in entries}, given)
    return entries


def _compare(
    cfg: CompareConfig,
    source_cfg: SourceConfig,
    entries: list[Entry],
    model: HookedRootModule | None,
    remarks: Sequence[str],
) -> Comparison:
    saved = {entry.id: entry.saved for entry in entries}
    variant = variants(entries, saved, {cfg.baseline, cfg.control})
    saes = {id_: one.load(source_cfg.device) for id_, one in saved.items()}
    fixed = (cfg.baseline, cfg.control)
    base, *more = (e.id for e in entries if e.group == cfg.baseline)
    other = next(e for e in entries if e.group not in fixed)
    split = Job(base, other.id)
    # what a second SAE of the baseline seems to split, another seed alone does
    split_null = Job(base, more[0]) if more else None
    between = [split, split_null] if cfg.n_candidates > 0 else []
    jobs = [job for job in between if job] + list(map(Job, saes))
    passes = plan_passes(jobs, saes, cfg.max_memory_gb)
    progress, path = cfg.output / "progress", cfg.output / "comparison.json"
    mine = _fingerprint(cfg, source_cfg, entries)
    if made := made_before(path, mine, cfg.min_fired, cfg.overwrite):
        return made
    extras = extras_to_keep(path, entries)
    claim(progress, mine)

    source, measured_on = load_source(source_cfg, list(saved.values()), model=model)
    run_passes(passes, saes, source, source_cfg.tokens, progress)

    family = Family(saes, source, progress, base)
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
        null = family.splits(split_null, 0).n_split if split_null else None
        comparison.split_counts = SplitCounts(
            SPLIT_SCORE,
            splits.n_latents,
            cfg.baseline,
            other.group,
            splits.n_split,
            null,
        )
    resampled = {name: figures for name, (_, figures) in found.items()}
    comparison.differences = differences(comparison, resampled)
    comparison.warnings = [*remarks, *_warnings(comparison)]
    comparison.verdict = verdict(comparison)
    comparison.extras = extras
    comparison.fingerprint = mine
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


def _fingerprint(
    cfg: CompareConfig, source_cfg: SourceConfig, entries: list[Entry]
) -> str:
    # what is counted does not depend on these
    others = ("output", "overwrite", "min_fired")
    counted = {k: v for k, v in _plain(cfg).items() if k not in others}
    paths = [entry.path for entry in entries]
    of = [FORMAT, counted, _plain(source_cfg)]
    return fingerprint(of, paths, text_identity(source_cfg.dataset).sha256)


def _new_comparison(cfg: CompareConfig, measured_on: MeasuredOn) -> Comparison:
    """What the comparison is made with, without results."""
    return Comparison(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        source=measured_on,
        settings=_plain(cfg),
        baseline=cfg.baseline,
        control=cfg.control if cfg.control in cfg.groups else None,
    )


def _warnings(comparison: Comparison) -> list[str]:
    source = comparison.source
    found = [*comparison.objections, *source.warnings]
    n_read = comparison.n_tokens
    is_short = n_read < source.tokens - source.context_size
    if is_short and source.token_set == EVERY_TOKEN:
        found.append(f"The text ended after {n_read:,} of {source.tokens:,} tokens.")
    for sae in comparison.saes:
        if not sae.training:
            found.append(f"{sae.name} does not record how it was trained.")
    return found


def _plain(cfg: Any) -> dict[str, Any]:
    return TypeAdapter(type(cfg)).dump_python(cfg, mode="json")
