"""Holds joint SAEs against solo ones on the same held-out tokens."""

import platform
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from simple_parsing import field
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.destination import held
from sae_lens_meta.evaluation.autointerp.results import (
    AutoInterpretation,
    summarize,
)
from sae_lens_meta.evaluation.comparison import FORMAT, Comparison, SplitCounts
from sae_lens_meta.evaluation.differences import differences
from sae_lens_meta.evaluation.earlier import made_before, scores_to_keep
from sae_lens_meta.evaluation.entries import (
    Entry,
    check_comparable,
    named_entries,
    variants,
)
from sae_lens_meta.evaluation.evaluate import META_STEPS
from sae_lens_meta.evaluation.family import Family
from sae_lens_meta.evaluation.independence import check_members, repeated_trainings
from sae_lens_meta.evaluation.measured_on import (
    EVERY_TOKEN,
    NEEDED,
    MeasuredOn,
    SourceConfig,
)
from sae_lens_meta.evaluation.passes import Job, plan_passes, run_passes
from sae_lens_meta.evaluation.progress import claim, discard, fingerprint
from sae_lens_meta.evaluation.report import write_report
from sae_lens_meta.evaluation.source import load_source
from sae_lens_meta.evaluation.splitting import SPLIT_SCORE
from sae_lens_meta.evaluation.verdict import verdict
from sae_lens_meta.saved import SavedSAE

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
            is half done is kept there too. It holds one comparison.
        overwrite (bool): Replace another comparison in `output`; a judge's scores are kept where
            they are of the same weights.
        ce_tokens (int): Tokens to run the whole language model on, for each SAE.
        min_fired (int): Tokens that a latent must fire on in every SAE to be compared.
        n_candidates (int): Splitting candidates to list; none need no counts of the pairs of
            latents of two SAEs, which take 4 bytes for each, twice where there is a second
            solo SAE.
        max_memory_gb (float): Pair counts kept at a time; more SAEs take more passes.
        meta_steps (int): Adam steps of each meta SAE that is fitted to a decoder.
    """

    joint: list[Path] = _paths()
    solo: list[Path] = _paths()
    solo_equal_l2: list[Path] = _paths(default_factory=list, required=False)
    output: Path = Path("comparison")
    overwrite: bool = field(default=False, action="store_true")
    ce_tokens: int = 16_384
    min_fired: int = 30
    n_candidates: int = 100
    max_memory_gb: float = 8.0
    meta_steps: int = META_STEPS


def compare(
    cfg: CompareConfig,
    source_cfg: SourceConfig,
    model: HookedRootModule | None = None,
    remarks: Sequence[str] = (),
) -> Comparison:
    """
    Runs every measure on all SAEs; writes comparison.json, its schema and report.html.

    What is done stays in `cfg.output / "progress"` until the end: the same call goes on where
    an earlier one was killed, and one that was finished gives what is there.

    Args:
        cfg: what to compare.
        source_cfg: text and language model; text that training did not see.
        model: the language model, where it is loaded already.
        remarks: what the reader should know of how the SAEs were chosen; among the warnings.

    Raises:
        ValueError: if there is no joint or no solo SAE, a path or the same weights stand twice,
            an SAE is not what it is given as, thresholds were taken by different rules, the
            SAEs do not read the same activations, solo SAEs are of several settings, a decoder
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
    entries = named_entries(
        {
            "solo": cfg.solo,
            "solo_equal_l2": cfg.solo_equal_l2,
            "joint": cfg.joint,
        }
    )
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
    variant = variants(entries, saved)
    saes = {id_: one.load(source_cfg.device) for id_, one in saved.items()}
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
    progress, path = cfg.output / "progress", cfg.output / "comparison.json"
    mine = _fingerprint(cfg, source_cfg, entries)
    if made := made_before(path, mine, cfg.min_fired, cfg.overwrite):
        return made
    scores = scores_to_keep(path, entries)
    claim(progress, mine)

    source, measured_on = load_source(source_cfg, list(saved.values()), model=model)
    run_passes(passes, saes, source, source_cfg.tokens, progress)

    family = Family(saes, source, progress, solo)
    latents = family.compared_latents(cfg.min_fired)
    found = {
        e.name: family.result(
            e, variant[e.id], latents[e.id], cfg.ce_tokens, cfg.meta_steps
        )
        for e in entries
    }
    comparison = _new_comparison(cfg, measured_on)
    comparison.saes = [result for result, _ in found.values()]
    comparison.n_tokens = comparison.saes[0].evaluation.reconstruction.n_tokens
    comparison.repeated_trainings = repeated_trainings(entries, saved)
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
    comparison.warnings = [*remarks, *_warnings(comparison)]
    comparison.verdict = verdict(comparison)
    comparison.autointerp = scores
    comparison.fingerprint = mine
    write_report(comparison, cfg.output / "report.html")
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
    measured = {sae.weights_sha256 for sae in comparison.saes}
    for path in paths:
        if SavedSAE.read(path).weights_sha256 not in measured:
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
    earlier = comparison.autointerp
    if earlier and earlier.judge != found.judge:
        warnings.warn(
            f"The scores of the judge {earlier.judge!r} in {folder / 'comparison.json'} are "
            f"replaced by those of {found.judge!r}.",
            stacklevel=2,
        )
    names = {sae.weights_sha256: sae.name for sae in comparison.saes}
    comparison.autointerp = summarize(found, names)
    comparison.save(folder)
    write_report(comparison, folder / "report.html")


def _fingerprint(
    cfg: CompareConfig, source_cfg: SourceConfig, entries: list[Entry]
) -> str:
    # what is counted does not depend on these
    others = ("output", "overwrite", "min_fired")
    counted = {k: v for k, v in _plain(cfg).items() if k not in others}
    paths = [entry.path for entry in entries]
    of = [FORMAT, counted, _plain(source_cfg)]
    return fingerprint(of, paths, source_cfg.dataset)


def _new_comparison(cfg: CompareConfig, measured_on: MeasuredOn) -> Comparison:
    """What the comparison is made with, without results."""
    return Comparison(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        source=measured_on,
        settings=_plain(cfg),
    )


def _warnings(comparison: Comparison) -> list[str]:
    source = comparison.source
    found = [*comparison.repeated_trainings, *source.warnings]
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
