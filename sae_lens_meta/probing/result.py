"""What probing found: what stands in probe.json."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.statistics.intervals import Interval
from sae_lens_meta.statistics.ratio import Estimate

FORMAT = 1
FILENAME = "probe.json"


@dataclass
class ProbedLabel:
    """
    A label and what a dense probe reads of it off the activations.

    Attributes:
        name: of the label.
        ancestors: labels that hold wherever it does.
        n_first: tokens that it holds on, in the part that everything is chosen on.
        n_second: in the part that everything is scored on.
        rate: share of the tokens of the second part.
        ceiling: F1 of the dense probe.
        shuffled_ceiling: of one fitted to shuffled labels, on shuffled labels.
    """

    name: str
    ancestors: list[str]
    n_first: int
    n_second: int
    rate: float
    ceiling: Estimate
    shuffled_ceiling: float | None


@dataclass
class Absorber:
    """
    A latent that says a label where the label's own latent is silent.

    Attributes:
        latent: which.
        n_tokens: that it does so on.
        child: the label, or the token in quotation marks, that it is specific to.
    """

    latent: int
    n_tokens: int
    child: str | None


@dataclass
class LabelScore:
    """
    What the latents of an SAE say of a label; shares are of the second part.

    Attributes:
        latent: the single one of the highest F1 of firing, in the first part.
        single: F1 of its firing.
        f1_by_k: of k-sparse probes.
        latents: of the largest of them, in the order in which they were found.
        needed: the smallest k whose F1 is 95 % of the dense probe's; None where none is.
        main: latents that stand for the label (`absorption.main_latents`).
        n_probed: tokens on which the label holds and the dense probe says so, which the next
            five are shares of; 0 where no latent stands for the label.
        silent: on which the first main latent is silent.
        taken: on which a single latent says the label in its place.
        taken_by_child: on which that is a latent specific to a child.
        absorption: on which all main latents are silent, and a single latent says it in their
            place: full absorption, as published.
        absorption_fraction: mean absorption fraction.
        absorbers: the latents that say the label in the first main latent's place, those on most
            tokens.
        shuffled_single: F1 of the single latent, chosen and scored on shuffled labels.
        shuffled_few: F1 of the probe of 5 latents, likewise.
    """

    latent: int
    single: Estimate
    f1_by_k: dict[int, float]
    latents: list[int]
    needed: int | None
    main: list[int]
    n_probed: int
    silent: Estimate
    taken: Estimate
    taken_by_child: Estimate
    absorption: Estimate
    absorption_fraction: Estimate
    absorbers: list[Absorber]
    shuffled_single: float | None
    shuffled_few: float | None


@dataclass
class ProbedSAE:
    """
    One SAE.

    Attributes:
        name: as it was given, or the end of its path.
        group: that it was given in.
        weights_sha256: of its weights as saved; empty for the control.
        config_sha256: of what else its codes depend on.
        d_sae: number of latents.
        l0: mean number of latents that fire on a token of the second part.
        calibrated: the rule by which its thresholds were taken; None where they were not.
        labels: what its latents say of each label, by its name.
        means: of the figures over labels, by id.
        n_labels: that a mean is over, by id: those for which every SAE has the figure, since an SAE
            is not the better for having no latent of a hard one. Empty in older files.
    """

    name: str
    group: str
    weights_sha256: str
    config_sha256: str
    d_sae: int
    l0: float
    calibrated: str | None
    labels: dict[str, LabelScore]
    means: dict[str, Estimate]
    n_labels: dict[str, int] = field(default_factory=dict)


@dataclass
class GroupDifference:
    """
    How many percent the mean of a figure over a group is above that over the first group.

    Attributes:
        group: which.
        baseline: the first group.
        figure: id.
        percent: None where the baseline's is not above 0.
        over_documents: interval for these very SAEs; None below 8 documents.
        over_seeds: interval on these very tokens; None where both have one SAE.
    """

    group: str
    baseline: str
    figure: str
    percent: float | None
    over_documents: Interval | None
    over_seeds: Interval | None


@dataclass
class ProbeResult:
    """
    Everything that was found and what it was made with.

    Attributes:
        format: of this file; 1.
        created: ISO date and time, UTC.
        versions: of the packages that figures depend on.
        source: model, hook, text and how much of it, and what training saw of it.
        settings: of the probing.
        n_tokens: of documents that were read, in both parts; BOS and separators are left out.
        n_first_documents, n_second_documents: of the two parts.
        labels: those that were probed for.
        left_out: labels that hold on too few tokens, and on how many of each part.
        ceiling: mean F1 of the dense probes.
        shuffled_ceiling: likewise, of those of shuffled labels.
        saes: in the order in which they were given, the control of random directions last.
        differences: of every group to the first.
        warnings: what the reader should know.
    """

    format: int
    created: str
    versions: dict[str, str]
    source: MeasuredOn
    settings: dict[str, Any]
    n_tokens: int
    n_first_documents: int
    n_second_documents: int
    labels: list[ProbedLabel]
    left_out: dict[str, tuple[int, int]]
    ceiling: Estimate
    shuffled_ceiling: float
    saes: list[ProbedSAE]
    differences: list[GroupDifference]
    warnings: list[str] = field(default_factory=list)

    def groups(self) -> dict[str, list[ProbedSAE]]:
        """The SAEs by group, the control's last."""
        found: dict[str, list[ProbedSAE]] = {}
        for sae in self.saes:
            found.setdefault(sae.group, []).append(sae)
        return found

    def save(self, folder: Path) -> Path:
        """Writes probe.json."""
        plain = TypeAdapter(ProbeResult).dump_python(self, mode="json")
        path = folder / FILENAME
        text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
        part = path.with_suffix(".json.part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> "ProbeResult":
        """
        Reads a probe.json.

        Raises:
            ValueError: if it is not one, or one of another format, naming what is wrong.
        """
        found = TypeAdapter(ProbeResult).validate_json(path.read_bytes())
        if found.format != FORMAT:
            raise ValueError(
                f"{path} is of format {found.format}, and this version of sae-lens-meta reads "
                f"{FORMAT}. Run `sae-lens-meta probe` again."
            )
        return found
