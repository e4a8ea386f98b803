"""The result of comparing joint with solo SAEs: what stands in comparison.json."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.table import Table

from sae_lens_meta.evaluation.autointerp.results import AutointerpSummary
from sae_lens_meta.evaluation.entries import Role
from sae_lens_meta.evaluation.evaluate import FIGURES, Evaluation, Figure
from sae_lens_meta.evaluation.histograms import Histogram
from sae_lens_meta.evaluation.intervals import Interval
from sae_lens_meta.evaluation.measured_on import MeasuredOn
from sae_lens_meta.evaluation.phi import PhiSummary
from sae_lens_meta.evaluation.splitting import SplitCandidate
from sae_lens_meta.evaluation.top_contexts import Peak

FORMAT = 4

PHI = "corrected mean |phi|"
PHI_AT_EQUAL_RATES = "corrected mean |phi| at equal firing rates"
L2 = "normalised L2"


@dataclass
class MatchingSummary:
    """
    How the latents of an SAE lie to those of the reference, the first solo SAE.

    Attributes:
        mean_cosine: of the one-to-one assignment of decoder rows.
        random_cosine: the same for a dictionary of random rows of the same shape.
        is_optimal: whether the assignment is the best there is.
        histogram: of the cosines of the pairs.
    """

    mean_cosine: float
    random_cosine: float
    is_optimal: bool
    histogram: Histogram


@dataclass
class ComparedSAE:
    """
    One SAE.

    Attributes:
        name: the end of its path, as long as it takes to tell it from the others.
        role: `joint`, `solo`, or `solo_equal_l2`: a solo brought to the joint's L2.
        variant: SAEs of the same variant differ by their seed alone.
        path: as it was given.
        weights_sha256: of its weights as saved, so that figures are never shown for others.
        training: its metadata's record of how it was trained.
        calibrated: how its thresholds were taken, in words.
        evaluation: its figures over all its latents.
        phi_compared: mean |phi| over its latents whose partners fire in every SAE compared.
        phi_at_equal_rates: that of the first solo SAE times how much more these latents
            co-occur where both fire at the same rates (`PhiByRate.ratio_at_equal_rates`).
        intervals: of the figures that come from a stream, over blocks of tokens.
        matching: to the first solo SAE; None for that one.
        phi: pairs by phi, over the latents compared.
        cosine: pairs by cosine of the decoder rows.
        nearest_cosine: rows by cosine to the nearest other row.
        log_firing_rate: latents by log10 of the share of tokens they fire on; silent
            latents are left out.
    """

    name: str
    role: Role
    variant: str
    path: str
    weights_sha256: str
    training: dict[str, Any]
    calibrated: str
    evaluation: Evaluation
    phi_compared: PhiSummary
    phi_at_equal_rates: float
    intervals: dict[str, Interval]
    matching: MatchingSummary | None
    phi: Histogram
    cosine: Histogram
    nearest_cosine: Histogram
    log_firing_rate: Histogram


@dataclass
class Difference:
    """
    How many percent a variant is above another in one figure.

    Attributes:
        variant: which.
        baseline: the other variant.
        figure: a figure of the headline table.
        percent: of the mean over the variant's SAEs to that over the baseline's; None where
            the latter is not above 0, and for counts.
        over_tokens: interval over blocks of tokens, for these very SAEs; None for a figure
            that comes from the weights alone, or where there are fewer than 8 blocks.
        over_seeds: interval over seeds, on these very tokens; None where both have one.
        n_seeds: SAEs of the variant.
        n_baseline: SAEs of the baseline.
    """

    variant: str
    baseline: str
    figure: str
    percent: float | None
    over_tokens: Interval | None
    over_seeds: Interval | None
    n_seeds: int
    n_baseline: int


@dataclass
class Contexts:
    """A latent of a splitting candidate and where it fires most."""

    latent: int
    peaks: list[Peak]


@dataclass
class CandidateWithContexts:
    """
    A latent of the first solo SAE that the first joint one seems to split.

    Attributes:
        candidate: the latent and its parts.
        contexts: of the latent itself.
        part_contexts: of each part.
    """

    candidate: SplitCandidate
    contexts: Contexts
    part_contexts: list[Contexts]


@dataclass
class SplitCounts:
    """
    How many latents of the first solo SAE other SAEs seem to split.

    Attributes:
        min_score: above which a latent counts as split (`splitting`).
        n_latents: latents looked at, those that fire on at least 30 tokens.
        joint: how many of them the first joint SAE splits.
        second_solo: how many the second solo SAE does, which is what another seed alone
            gives; None where there is one solo SAE only.
    """

    min_score: float
    n_latents: int
    joint: int
    second_solo: int | None

    def sentence(self) -> str:
        """What the counts say."""
        found = (
            f"Of {self.n_latents:,} latents of the first solo SAE, {self.joint:,} have a split "
            f"score above {self.min_score:g} in the joint one"
        )
        if self.second_solo is None:
            return (
                f"{found}. How many another seed alone gives takes a second solo SAE."
            )
        return (
            f"{found} and {self.second_solo:,} in a second solo one, by its seed alone."
        )


@dataclass
class Comparison:
    """
    Everything that a comparison found and what it was made with.

    Attributes:
        format: of this file; 4.
        created: ISO date and time, UTC.
        versions: of the packages that figures depend on.
        source: model, hook, text and how much of it, and what training saw of it.
        settings: of the comparison itself.
        n_tokens: read; fewer than asked where the text ended.
        saes: joint, solo and controls.
        differences: of every variant to the solo SAEs.
        splitting: latents of the first solo SAE that the first joint SAE seems to split.
        split_counts: how many do, and how many a second solo SAE splits; None where they
            were not looked for.
        verdict: what may be claimed about co-occurrence, a sentence for each joint variant.
        warnings: what the reader should know.
        repeated_trainings: SAEs that are not independent seeds, in words; they forbid a claim.
        vocabulary: text of the tokens that occur in contexts, by id.
        autointerp: scores of a judge; None where none was asked.
        fingerprint: of the SAEs, the text and the settings that it was made of.
    """

    format: int
    created: str
    versions: dict[str, str]
    source: MeasuredOn
    settings: dict[str, Any]
    n_tokens: int = 0
    saes: list[ComparedSAE] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    splitting: list[CandidateWithContexts] = field(default_factory=list)
    split_counts: SplitCounts | None = None
    verdict: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    repeated_trainings: list[str] = field(default_factory=list)
    vocabulary: dict[int, str] = field(default_factory=dict)
    autointerp: AutointerpSummary | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(
                f"This comparison is of format {self.format}, and this version of sae-lens-meta "
                f"reads {FORMAT}. Run `sae-lens-meta compare` again."
            )

    def save(self, folder: Path) -> Path:
        """Writes comparison.json, and its JSON schema beside it."""
        adapter = TypeAdapter(Comparison)
        path = folder / "comparison.json"
        # json, unlike pydantic, refuses what is not a number rather than write null
        plain = adapter.dump_python(self, mode="json")
        # killed in between, it leaves the earlier one whole
        part = folder / "comparison.json.part"
        part.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")
        part.replace(path)
        schema = TypeAdapter(dict[str, Any]).dump_json(adapter.json_schema(), indent=1)
        (folder / "comparison.schema.json").write_bytes(schema + b"\n")
        return path

    def variants(self) -> dict[str, list[ComparedSAE]]:
        """The SAEs by variant, in the order in which they were given."""
        variants: dict[str, list[ComparedSAE]] = {}
        for sae in self.saes:
            variants.setdefault(sae.variant, []).append(sae)
        return variants

    def difference(self, variant: str, baseline: str, figure: str) -> Difference | None:
        """That of two variants in one figure; None where they were not held together."""
        wanted = (variant, baseline, figure)
        for found in self.differences:
            if (found.variant, found.baseline, found.figure) == wanted:
                return found
        return None

    @classmethod
    def load(cls, path: Path) -> "Comparison":
        """
        Reads a comparison.json.

        Raises:
            ValueError: if it is not one, or one of another format, naming what is wrong.
        """
        return TypeAdapter(Comparison).validate_json(path.read_bytes())


HEADLINE: dict[str, Figure[ComparedSAE]] = {
    PHI: Figure(lambda sae: sae.phi_compared.corrected, ".3e"),
    "mean |phi|": Figure(lambda sae: sae.phi_compared.mean_abs, ".3e"),
    "  of it by chance": Figure(lambda sae: sae.phi_compared.expected_by_chance, ".3e"),
    PHI_AT_EQUAL_RATES: Figure(lambda sae: sae.phi_at_equal_rates, ".3e"),
    "latents compared": Figure(lambda sae: sae.phi_compared.n_latents, ".0f"),
    "mean |phi|, all latents that fire": Figure(
        lambda sae: sae.evaluation.phi.mean_abs, ".3e"
    ),
    **{
        label: Figure(lambda sae, of=figure.of: of(sae.evaluation), figure.format)
        for label, figure in FIGURES.items()
        if "phi" not in label and not label.startswith(" ")
    },
}
"""Figures of the headline table, by label."""

COUNTS = ("latents compared", "latents that never fire")
"""Those whose change in percent would say nothing: small, or the same by construction."""


def comparison_table(comparison: Comparison) -> Table:
    """The headline figures of every variant, means over its SAEs."""
    table = Table("", title=f"{comparison.n_tokens:,} {comparison.source.said}")
    variants = comparison.variants()
    for variant, saes in variants.items():
        table.add_column(f"{variant} ({len(saes)})", justify="right")
    for label, figure in HEADLINE.items():
        cells = []
        for variant, saes in variants.items():
            mean = sum(map(figure.of, saes)) / len(saes)
            difference = comparison.difference(variant, "solo", label)
            percent = difference.percent if difference else None
            change = "" if percent is None else f"\n{percent:+.1f} %"
            cells.append(f"{mean:{figure.format}}{change}")
        table.add_row(label, *cells)
    return table
