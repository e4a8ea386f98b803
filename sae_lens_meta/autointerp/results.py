"""What an automated interpretation found: autointerp.json, its table, and its summary."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from rich.table import Table

from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.autointerp.asking import Usage
from sae_lens_meta.autointerp.scoring import (
    CHANCE,
    SCORES,
    Score,
    ScoredLatent,
)
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.statistics.intervals import Interval, mean_interval
from sae_lens_meta.statistics.paired import PairedDifference

FORMAT = 2
FILENAME = "autointerp.json"


@dataclass
class ScoreMean:
    """
    Attributes:
        score: its name.
        mean: over the latents that have it; None where none does.
        interval: of the mean over latents.
        n: latents that have it.
        n_asked: latents that were asked about.
        missing: how often for which reason.
    """

    score: Score
    mean: float | None
    interval: Interval | None
    n: int
    n_asked: int
    missing: dict[str, int]


@dataclass
class InterpretedSAE:
    """
    Attributes:
        name: as it was given, or of a control.
        weights_sha256: of its weights as saved.
        n_left_out: latents drawn that fire in too few windows, or are silent in too few, and
            were not asked about.
        latents: those that were.
        shuffled: the same latents, each scored with the explanation of another.
    """

    name: str
    weights_sha256: str
    n_left_out: int
    latents: list[ScoredLatent]
    shuffled: list[ScoredLatent] = field(default_factory=list)

    def means(self, of_shuffled: bool = False) -> list[ScoreMean]:
        """The scores over all latents."""
        latents = self.shuffled if of_shuffled else self.latents
        return [_mean(score, latents) for score in SCORES]


@dataclass
class AutoInterpretation:
    """
    Everything that was found and what it was made with.

    Attributes:
        format: of this file; 2.
        created: ISO date and time, UTC.
        judge: its name; scores of different judges are not comparable.
        prompt_version: of the wording of the questions.
        settings: of the run.
        source: model, hook, text and how much of it, and what training saw of it.
        saes: one or two, and controls.
        differences: between the first two SAEs over matched latents.
        by_firing_rate: the same within quarters of the pairs, rarest first.
        usage: what was asked of the judge in this run.
        n_tokens: read; fewer than asked where the text ended. None in older files.
        pair_cosines: of the decoder rows of two SAEs' latents, pair by pair: where they are low,
            the two have no such latent in common.
    """

    format: int
    created: str
    judge: str
    prompt_version: int
    settings: dict[str, Any]
    source: MeasuredOn
    saes: list[InterpretedSAE]
    differences: list[PairedDifference]
    by_firing_rate: list[list[PairedDifference]]
    usage: Usage
    n_tokens: int | None = None
    pair_cosines: list[float] = field(default_factory=list)

    def save(self, folder: Path) -> Path:
        """Writes autointerp.json."""
        plain = TypeAdapter(AutoInterpretation).dump_python(self, mode="json")
        path = folder / FILENAME
        text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> "AutoInterpretation":
        """
        Reads an autointerp.json.

        Raises:
            ValueError: if it is not one, naming what is wrong.
        """
        return TypeAdapter(AutoInterpretation).validate_json(path.read_bytes())


def check_same_subjects(folder: Path, judge: str, paths: dict[str, Path]) -> None:
    """
    Checks that an earlier autointerp.json in `folder`, if any, is of the same SAEs and judge.

    Raises:
        ValueError: if it is of others, and would be lost.
    """
    if not (folder / FILENAME).exists():
        return
    earlier = AutoInterpretation.load(folder / FILENAME)
    had = {sae.weights_sha256 for sae in earlier.saes} - {""}
    has = {SavedSAE.read(path).weights_sha256 for path in paths.values()}
    if (earlier.judge, had) != (judge, has):
        raise ValueError(
            f"{folder / FILENAME} has the scores of {earlier.judge!r} for "
            f"{', '.join(sae.name for sae in earlier.saes)}; this judge or these SAEs are others. "
            "Give another --output, or delete it."
        )


@dataclass
class AutointerpSummary:
    """
    What a comparison shows of an automated interpretation.

    Attributes:
        judge: its name; scores of different judges are not comparable.
        prompt_version: of the wording of the questions.
        means: by the name that the comparison has for an SAE; controls under their own.
        shuffled: the same with the explanations of other latents.
        pair: the first and the second SAE of the differences; empty for a single SAE.
        differences: over matched latents.
        read: what the windows were taken from, in words; empty in older files.
        warnings: what the reader must know of it.
    """

    judge: str
    prompt_version: int
    means: dict[str, list[ScoreMean]]
    shuffled: dict[str, list[ScoreMean]]
    pair: list[str]
    differences: list[PairedDifference]
    read: str = ""
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> list[list[str]]:
        """SAE, score with its chance level, mean, and mean with shuffled explanations."""
        return [
            [
                name,
                f"{mean.score}, chance {CHANCE[mean.score]:g}",
                show_mean(mean),
                show_mean(self.shuffled[name][place]) if name in self.shuffled else "",
            ]
            for name, means in self.means.items()
            for place, mean in enumerate(means)
        ]

    def sentences(self) -> list[str]:
        """The differences, the first SAE less the second."""
        return [show_difference(difference) for difference in self.differences]


def summarize(found: AutoInterpretation, names: dict[str, str]) -> AutointerpSummary:
    """
    The summary of `found`.

    Args:
        found: an automated interpretation.
        names: of SAEs, by the sha256 of their weights.

    Raises:
        ValueError: if an SAE is not among `names`.
    """
    for sae in found.saes:
        if sae.weights_sha256 and sae.weights_sha256 not in names:
            raise ValueError(
                f"The comparison did not measure the SAE {sae.name!r}, or one of other "
                "weights. Run `sae-lens-meta compare` on it."
            )
    hashes = [sae.weights_sha256 for sae in found.saes]
    if len(set(hashes)) < len(hashes):
        raise ValueError(
            "One SAE was interpreted twice, which a comparison does not show."
        )
    called = {sae.name: names.get(sae.weights_sha256, sae.name) for sae in found.saes}
    return AutointerpSummary(
        judge=found.judge,
        prompt_version=found.prompt_version,
        means={called[sae.name]: sae.means() for sae in found.saes},
        shuffled={
            called[sae.name]: sae.means(of_shuffled=True)
            for sae in found.saes
            if sae.shuffled
        },
        pair=[called[sae.name] for sae in found.saes[:2]] if found.differences else [],
        differences=found.differences,
        read=_read(found),
        warnings=[*found.source.notes, *found.source.warnings],
    )


def _read(found: AutoInterpretation) -> str:
    source = found.source
    n_tokens = "" if found.n_tokens is None else f"{found.n_tokens:,} "
    return f"{n_tokens}{source.said}, of {source.dataset}"


def _mean(score: Score, latents: list[ScoredLatent]) -> ScoreMean:
    values = [s for one in latents if (s := one.scores.get(score)) is not None]
    reasons = [one.missing[score] for one in latents if score in one.missing]
    return ScoreMean(
        score=score,
        mean=float(np.mean(values)) if values else None,
        interval=mean_interval(values),
        n=len(values),
        n_asked=len(latents),
        missing={reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )


def autointerp_table(found: AutoInterpretation) -> Table:
    """Means of every SAE, with shuffled explanations beside them, and their denominators."""
    table = Table("score, chance", title=f"Judge: {found.judge}; {found.source.said}")
    for sae in found.saes:
        table.add_column(sae.name, justify="right")
        if sae.shuffled:
            table.add_column(f"{sae.name}, shuffled", justify="right")
    for place, score in enumerate(SCORES):
        cells = []
        for sae in found.saes:
            cells.append(show_mean(sae.means()[place]))
            if sae.shuffled:
                cells.append(show_mean(sae.means(of_shuffled=True)[place]))
        table.add_row(f"{score}, {CHANCE[score]:g}", *cells)
    return table


def show_mean(mean: ScoreMean) -> str:
    """For instance `0.612 (48 of 50; 2 unreadable)`."""
    reasons = "".join(f"; {n} {reason}" for reason, n in mean.missing.items())
    value = "none" if mean.mean is None else f"{mean.mean:.3f}"
    return f"{value} ({mean.n} of {mean.n_asked}{reasons})"


def show_difference(found: PairedDifference) -> str:
    """A sentence."""
    missing = f"{found.n_one_missing} with one side missing, {found.n_both_missing} with both."
    if found.difference is None:
        return f"{found.score}: no pair has it on both sides; {missing}"
    interval = f" ({found.interval.show('+.3f')})" if found.interval else ""
    p = "" if found.p is None else f", p {found.p:.4f}"
    return (
        f"{found.score}: {found.difference:+.3f}{interval}{p}, over {found.n_pairs} pairs; "
        f"{missing}"
    )


def show_pairs(cosines: list[float]) -> str:
    """How alike the latents are that were paired."""
    return (
        f"Pairs: {len(cosines)}, decoder cosine {np.mean(cosines):.3f} in the mean, "
        f"{min(cosines):.3f} at least."
    )


def show_usage(usage: Usage) -> str:
    """What was asked of the judge in this run."""
    return (
        f"{usage.requests:,} requests ({usage.kept:,} more answered from disk), "
        f"{usage.prompt_tokens:,} tokens read and {usage.completion_tokens:,} written by the judge"
        + (f", {usage.cost:.2f} dollars." if usage.cost else ".")
    )
