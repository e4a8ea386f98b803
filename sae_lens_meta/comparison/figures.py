"""The headline figures of a comparison: those of an SAE, and those that take all SAEs compared."""

from dataclasses import replace

from sae_lens_meta.comparison.result import ComparedSAE
from sae_lens_meta.measures.evaluate import Evaluation
from sae_lens_meta.measures.figures import (
    BY_CHANCE,
    CORRECTED,
    DECODER,
    MEAN_PHI,
    RECONSTRUCTION,
    Figure,
    by_id,
)
from sae_lens_meta.measures.figures import L0 as L0_OF_ONE
from sae_lens_meta.measures.figures import L2 as L2_OF_ONE


def _of_evaluation(figure: Figure[Evaluation]) -> Figure[ComparedSAE]:
    def of(sae: ComparedSAE) -> float:
        return figure.of(sae.evaluation)

    return replace(figure, of=of)  # type: ignore[arg-type, return-value]


_COMPARED = "Over the latents that have a partner firing in every SAE compared."
PHI = Figure[ComparedSAE](
    "corrected_mean_abs_phi",
    "corrected mean |phi|",
    lambda sae: sae.phi_compared.corrected,
    ".3e",
    f"{CORRECTED} {_COMPARED}",
    "lower",
    stream="phi",  # what chance gives hardly varies
)
PHI_AT_EQUAL_RATES = Figure[ComparedSAE](
    "corrected_mean_abs_phi_at_equal_firing_rates",
    "corrected mean |phi| at equal firing rates",
    lambda sae: sae.phi_at_equal_rates,
    ".3e",
    "The same where pairs are weighted as if the latents of every SAE fired equally often: "
    "a latent that fires rarely cannot correlate much with one that fires often.",
    "lower",
)
HEADLINE: dict[str, Figure[ComparedSAE]] = by_id(
    (
        PHI,
        Figure(
            "mean_abs_phi",
            "mean |phi|",
            lambda sae: sae.phi_compared.mean_abs,
            ".3e",
            f"{MEAN_PHI} {_COMPARED}",
            "lower",
            stream="phi",
        ),
        Figure(
            "mean_abs_phi_by_chance",
            "of it by chance",
            lambda sae: sae.phi_compared.expected_by_chance,
            ".3e",
            BY_CHANCE,
            is_part=True,
        ),
        PHI_AT_EQUAL_RATES,
        Figure(
            "latents_compared",
            "latents compared",
            lambda sae: sae.phi_compared.n_latents,
            ".0f",
            "Latents that have a partner in every SAE compared, each of which fires on enough "
            "tokens.",
            unit="latents",
            is_count=True,
        ),
        Figure(
            "mean_abs_phi_all_latents_that_fire",
            "mean |phi|, all latents that fire",
            lambda sae: sae.evaluation.phi.mean_abs,
            ".3e",
            MEAN_PHI,
            "lower",
        ),
        *map(_of_evaluation, RECONSTRUCTION + DECODER),
    )
)
"""Figures of the headline table, by id."""
L2, L0 = HEADLINE[L2_OF_ONE.id], HEADLINE[L0_OF_ONE.id]
