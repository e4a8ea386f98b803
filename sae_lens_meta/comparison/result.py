"""The result of comparing groups of SAEs: what stands in comparison.json."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.comparison.older import upgraded
from sae_lens_meta.destination import write_whole
from sae_lens_meta.formats import check_format
from sae_lens_meta.measures.evaluate import Evaluation
from sae_lens_meta.measures.histograms import Histogram
from sae_lens_meta.measures.pair_map import PairMap
from sae_lens_meta.measures.phi import PhiSummary
from sae_lens_meta.measures.splitting import SplitCandidate
from sae_lens_meta.measures.top_contexts import Peak
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.statistics.intervals import Interval

FORMAT = 5


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
        group: that it was given in.
        variant: SAEs of the same variant differ by their seed alone.
        path: as it was given.
        weights_sha256: of its weights as saved, so that figures are never shown for others.
        config_sha256: of what else its codes depend on; empty in older files.
        training: its metadata's record of how it was trained.
        calibrated: how its thresholds were taken, in words.
        evaluation: its figures over all its latents.
        phi_compared: mean |phi| over its latents whose partners fire in every SAE compared.
        phi_at_equal_rates: that of the first solo SAE times how much more these latents
            co-occur where both fire at the same rates (`PhiByRate.ratio_at_equal_rates`).
        intervals: of the figures that come from a stream, by id, over blocks of tokens.
        matching: to the first solo SAE; None for that one.
        phi: pairs by phi, over the latents compared.
        cosine: pairs by cosine of the decoder rows.
        nearest_cosine: rows by cosine to the nearest other row.
        log_firing_rate: latents by log10 of the share of tokens they fire on; silent
            latents are left out.
        pair_map: pairs by firing rate and |phi|, over the latents compared; of the first SAE of each
            variant, and None in older files.
    """

    name: str
    group: str
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
    config_sha256: str = ""
    pair_map: PairMap | None = None

    def is_of(self, sae: SavedSAE) -> bool:
        """Whether these are figures of `sae` as it is now."""
        same_config = self.config_sha256 in ("", sae.config_sha256)
        return self.weights_sha256 == sae.weights_sha256 and same_config


@dataclass
class Difference:
    """
    How many percent a variant is above another in one figure.

    Attributes:
        variant: which.
        baseline: the other variant.
        figure: id of a figure of the headline table.
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
    A latent of the first SAE of the baseline that the first of another group seems to split.

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
    How many latents of the first SAE of the baseline other SAEs seem to split.

    Attributes:
        min_score: above which a latent counts as split (`splitting`).
        n_latents: latents looked at, those that fire on at least 30 tokens.
        baseline: the group whose latents they are.
        group: the group whose first SAE was looked at.
        n_split: how many of them that SAE splits.
        n_split_by_seed: how many the second SAE of the baseline does, which is what another seed
            alone gives; None where there is one only.
    """

    min_score: float
    n_latents: int
    baseline: str
    group: str
    n_split: int
    n_split_by_seed: int | None

    def sentence(self) -> str:
        """What the counts say."""
        found = (
            f"Of {self.n_latents:,} latents of the first {self.baseline} SAE, {self.n_split:,} "
            f"have a split score above {self.min_score:g} in the {self.group} one"
        )
        if self.n_split_by_seed is None:
            return f"{found}. How many another seed alone gives takes a second {self.baseline} SAE."
        return (
            f"{found} and {self.n_split_by_seed:,} in a second {self.baseline} one, by its seed "
            "alone."
        )


@dataclass
class Extra:
    """
    Something that another part of the package has attached to a comparison, which looks not into it.

    Attributes:
        called: what it is, in words: "the scores of the judge 'x'".
        weights: sha256 of the SAEs that it is of, by their names in the comparison.
        data: as JSON has it.
    """

    called: str
    weights: dict[str, str]
    data: dict[str, Any]


@dataclass
class Comparison:
    """
    Everything that a comparison found and what it was made with.

    Attributes:
        format: of this file; 5.
        created: ISO date and time, UTC.
        versions: of the packages that figures depend on.
        source: model, hook, text and how much of it, and what training saw of it.
        settings: of the comparison itself.
        n_tokens: read; fewer than asked where the text ended.
        baseline: the group that the others are held against.
        control: the group that is the baseline at the L2 and L0 of the others, if there is one.
        saes: those of the baseline first.
        differences: of every variant to the baseline and to the control.
        splitting: latents of the first SAE of the baseline that the first of another group seems
            to split.
        split_counts: how many do, and how many a second SAE of the baseline splits; None where
            they were not looked for.
        verdict: what may be claimed about co-occurrence, a sentence for each variant.
        warnings: what the reader should know.
        objections: why differences may not be the objective's, such as SAEs that are not
            independent seeds, in words; each forbids a claim.
        vocabulary: text of the tokens that occur in contexts, by id.
        extras: what other parts of the package attached to it.
        fingerprint: of the SAEs, the text and the settings that it was made of.
    """

    format: int
    created: str
    versions: dict[str, str]
    source: MeasuredOn
    settings: dict[str, Any]
    baseline: str
    control: str | None
    n_tokens: int = 0
    saes: list[ComparedSAE] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    splitting: list[CandidateWithContexts] = field(default_factory=list)
    split_counts: SplitCounts | None = None
    verdict: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    objections: list[str] = field(default_factory=list)
    vocabulary: dict[int, str] = field(default_factory=dict)
    extras: dict[str, Extra] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        otherwise = "run `sae-lens-meta compare` again"
        check_format("This comparison", self.format, FORMAT, otherwise)

    def save(self, folder: Path) -> Path:
        """Writes comparison.json, and its JSON schema beside it."""
        adapter = TypeAdapter(Comparison)
        path = folder / "comparison.json"
        # json, unlike pydantic, refuses what is not a number rather than write null
        plain = adapter.dump_python(self, mode="json")
        text = json.dumps(plain, separators=(",", ":"), allow_nan=False)
        write_whole(path, text + "\n")
        schema = TypeAdapter(dict[str, Any]).dump_json(adapter.json_schema(), indent=1)
        (folder / "comparison.schema.json").write_bytes(schema + b"\n")
        return path

    def variants(self) -> dict[str, list[ComparedSAE]]:
        """The SAEs by variant, in the order in which they were given."""
        variants: dict[str, list[ComparedSAE]] = {}
        for sae in self.saes:
            variants.setdefault(sae.variant, []).append(sae)
        return variants

    def held_against(self) -> dict[str, list[ComparedSAE]]:
        """The SAEs by variant, but for the baseline's and the control's."""
        fixed = (self.baseline, self.control)
        variants = self.variants().items()
        return {name: saes for name, saes in variants if saes[0].group not in fixed}

    def called(self) -> dict[str, str]:
        """Short names of the variants: that of the group, where it has no other variant."""
        variants = self.variants()
        groups = [saes[0].group for saes in variants.values()]
        return {
            name: saes[0].group if groups.count(saes[0].group) == 1 else name
            for name, saes in variants.items()
        }

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
        Reads a comparison.json, also one of format 4.

        Raises:
            ValueError: if it is not one, or one of another format, naming what is wrong.
        """
        return cls.from_plain(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Comparison":
        """As `load`, of what stands in the file."""
        return TypeAdapter(Comparison).validate_python(upgraded(plain))
