"""The registry of figures: what each is called, how it is shown, which way is better."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from rich.table import Table

from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.measures.evaluate import META_K, Evaluation
from sae_lens_meta.measures.model_cost import ModelCost
from sae_lens_meta.measures.reconstruction import Reconstruction

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Figure(Generic[T_contra]):
    """
    One figure of some kind of result.

    Attributes:
        id: in files, and on a model card.
        label: as people read it.
        of: its value.
        format: in which it is shown.
        explained: what it says, in a sentence.
        better: which way; None where neither is.
        unit: of the value; empty for a share or a ratio.
        stream: what it is resampled from, over blocks of a stream: a figure of
            `ReconstructionMeter.figures`, `phi` or `ce_overhead`; None where it comes from the
            weights alone, or has no interval.
        is_count: small, or the same by construction: a change in percent would say nothing.
        is_part: of the figure above it.
        is_of_model: taken on the first tokens alone, which the whole language model is run on.
    """

    id: str
    label: str
    of: Callable[[T_contra], float]
    format: str
    explained: str
    better: Better | None = None
    unit: str = ""
    stream: str | None = None
    is_count: bool = False
    is_part: bool = False
    is_of_model: bool = False

    def show(self, result: T_contra) -> str:
        """The figure as text."""
        return format(self.of(result), self.format)

    @property
    def indented(self) -> str:
        """The label as it stands in a table."""
        return f"  {self.label}" if self.is_part else self.label


class Kept(Protocol):
    """What is known of an SAE that has read a text: see `evaluate.read_once`."""

    @property
    def reconstruction(self) -> Reconstruction: ...
    @property
    def model_cost(self) -> ModelCost: ...


KeptT = TypeVar("KeptT", bound=Kept)


def by_id(figures: Iterable[Figure[T]]) -> dict[str, Figure[T]]:
    """The registry of `figures`, in their order."""
    return {figure.id: figure for figure in figures}


def _explained(ratio: float) -> Figure[Evaluation]:
    def of(e: Evaluation) -> float:
        return float(np.mean(e.decoder.meta_explained_variance[f"{ratio:.2f}"]))

    return Figure(
        f"meta_sae_of_width_{ratio:.2f}_explains".replace(".", "_"),
        f"meta SAE of width {ratio:.2f} explains",
        of,
        ".4f",
        "Share of the variance of unit decoder rows that a small SAE fitted to them explains, "
        f"{META_K} meta latents a row; the less, the harder the rows are to take apart.",
        "lower",
    )


def _counted(figure: float | None) -> float:
    assert figure is not None, "the shift null was not counted"
    return figure


L2 = Figure[Kept](
    "normalised_l2",
    "normalised L2",
    lambda e: e.reconstruction.normalized_l2,
    ".4f",
    "Squared error of the reconstruction per dimension, activations brought to mean 0 and "
    "standard deviation 1.",
    "lower",
    stream="normalized_l2",
)
L0 = Figure[Kept](
    "l0",
    "L0",
    lambda e: e.reconstruction.l0,
    ".1f",
    "Latents that fire on a token, a mean over tokens.",
    unit="latents a token",
    stream="l0",
)
RECONSTRUCTION: tuple[Figure[Kept], ...] = (
    L2,
    Figure(
        "explained_variance",
        "explained variance",
        lambda e: e.reconstruction.explained_variance,
        ".4f",
        "Share of the variance of activations, so normalised, that the reconstruction explains.",
        "higher",
        stream="explained_variance",
    ),
    L0,
    Figure(
        "latents_that_never_fire",
        "latents that never fire",
        lambda e: e.reconstruction.n_silent,
        ".0f",
        "Latents that fire on none of these tokens.",
        "lower",
        unit="latents",
        is_count=True,
    ),
    Figure(
        "ce_overhead_percent",
        "CE overhead, percent",
        lambda e: e.model_cost.ce_overhead_percent,
        ".2f",
        "By how much the language model's loss grows when it runs on reconstructions.",
        "lower",
        unit="%",
        stream="ce_overhead",
        is_of_model=True,
    ),
    Figure(
        "ce_loss_recovered",
        "CE loss recovered",
        lambda e: e.model_cost.ce_loss_recovered,
        ".4f",
        "The model's loss on reconstructions: 1 as on the activations, 0 as on zeros.",
        "higher",
        is_of_model=True,
    ),
    Figure(
        "kl_divergence_nats",
        "KL divergence, nats",
        lambda e: e.model_cost.kl_divergence,
        ".4f",
        "How far the next-token distributions on reconstructions are from the model's own.",
        "lower",
        unit="nats",
        is_of_model=True,
    ),
)
MEAN_PHI = "Mean over pairs of latents of |phi|, the correlation of the tokens that the two fire on."
BY_CHANCE = (
    "What mean |phi| would be if each latent fired as often, but on tokens drawn at random; "
    "latents that fire in bursts give more."
)
CORRECTED = "Mean |phi| less what chance gives."
CO_OCCURRENCE: tuple[Figure[Evaluation], ...] = (
    Figure(
        "mean_abs_phi",
        "mean |phi|",
        lambda e: e.phi.mean_abs,
        ".3e",
        MEAN_PHI,
        "lower",
    ),
    Figure(
        "mean_abs_phi_by_chance",
        "of it by chance",
        lambda e: e.phi.expected_by_chance,
        ".3e",
        BY_CHANCE,
        is_part=True,
    ),
    Figure(
        "corrected_mean_abs_phi",
        "corrected",
        lambda e: e.phi.corrected,
        ".3e",
        CORRECTED,
        "lower",
        is_part=True,
    ),
)
DECODER: tuple[Figure[Evaluation], ...] = (
    Figure(
        "mean_abs_cosine_of_decoder_rows",
        "mean |cosine| of decoder rows",
        lambda e: e.decoder.mean_abs_cosine,
        ".4f",
        "Mean |cosine| of all pairs of decoder rows.",
        "lower",
    ),
    Figure(
        "mean_nearest_cosine",
        "mean nearest cosine",
        lambda e: e.decoder.mean_nearest_cosine,
        ".4f",
        "Cosine of each decoder row to the row nearest to it, a mean over rows.",
        "lower",
    ),
    Figure(
        "effective_rank_of_the_decoder",
        "effective rank of the decoder",
        lambda e: e.decoder.effective_rank,
        ".1f",
        "Over how many directions the decoder rows spread.",
        "higher",
    ),
    _explained(0.09),
    _explained(0.25),
)
SHIFTED: tuple[Figure[Evaluation], ...] = (
    Figure(
        "mean_abs_phi_contexts_shifted",
        "mean |phi|, contexts shifted",
        lambda e: _counted(e.phi.expected_by_shift),
        ".3e",
        "Mean |phi| of latents in one context with those in another: what bursts and "
        "positions alone give.",
    ),
    Figure(
        "mean_abs_phi_corrected_by_shift",
        "corrected by that",
        lambda e: _counted(e.phi.corrected_by_shift),
        ".3e",
        "Mean |phi| less what bursts and positions alone give.",
        "lower",
        is_part=True,
    ),
)
"""Those of the shift null, where it was counted."""


def model_tokens(*numbers: int) -> str:
    """On which tokens figures are taken that the whole language model is run for."""
    shown = " or ".join(f"{number:,}" for number in numbers)
    return f"CE and KL are of the first {shown} tokens"


def evaluation_table(evaluations: list[Evaluation], measured_on: MeasuredOn) -> Table:
    """The figures side by side, one column for each SAE."""
    figures: tuple[Figure[Evaluation], ...] = RECONSTRUCTION + CO_OCCURRENCE + DECODER
    if all(e.phi.expected_by_shift is not None for e in evaluations):
        figures += SHIFTED
    return figures_table(figures, {e.name: e for e in evaluations}, measured_on.said)


def figures_table(
    figures: Iterable[Figure[KeptT]], results: dict[str, KeptT], said: str
) -> Table:
    """
    Figures side by side.

    Args:
        figures: to show, one row each.
        results: one column for each SAE, by its name.
        said: of the tokens that they are taken on, after their number.
    """
    n_tokens = next(iter(results.values())).reconstruction.n_tokens
    table = Table("", title=f"{n_tokens:,} {said}")
    for name in results:
        table.add_column(name, justify="right")
    for figure in figures:
        table.add_row(figure.indented, *map(figure.show, results.values()))
    costs = {one.model_cost.n_tokens for one in results.values()}
    table.caption = model_tokens(*sorted(costs))
    return table
