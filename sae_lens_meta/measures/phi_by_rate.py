"""Corrected mean |phi| at equal firing rates: phi depends on how often both latents fire."""

from dataclasses import dataclass

import numpy as np

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import (
    BLOCK_ROWS,
    measurable,
    phi_rows,
    total_by_chance,
)

# firing rates from 1 down to 2^-16; coarser bins leave differences of the rates within one
BINS_PER_OCTAVE = 4
N_BINS = 16 * BINS_PER_OCTAVE


@dataclass
class PhiByRate:
    """
    |phi|, less what chance gives, of the pairs of one SAE, by the firing rates of their latents.

    Attributes:
        total: its sum over pairs whose latents fire at rates of bins i and j, `[64, 64]`;
            bin i holds rates from 2^-((i+1)/4) to 2^-(i/4), the last one all below.
        pairs: how many there are, `[64, 64]`.
    """

    total: np.ndarray
    pairs: np.ndarray

    @property
    def mean(self) -> float:
        """Corrected mean |phi| over all pairs."""
        return float(self.total.sum() / self.pairs.sum())

    def ratio_at_equal_rates(self, reference: "PhiByRate") -> float:
        """
        Corrected mean |phi| over that of `reference`, as if both fired at the same rates.

        Means over the pairs of each bin, weighted by the pairs that the SAE with fewer of
        them has there. 1 where nothing but the firing rates differs.

        Raises:
            ValueError: if no pairs of the two fire at the same rates.
        """
        weights = np.minimum(self.pairs, reference.pairs)
        both = weights > 0
        if not both.any():
            raise ValueError(
                f"No two of the {self.pairs.sum():.0f} and {reference.pairs.sum():.0f} pairs of "
                "latents fire at the same rates. Lower min_fired, or give more tokens."
            )
        mine, theirs = (
            (weights[both] * one.total[both] / one.pairs[both]).sum()
            for one in (self, reference)
        )
        return float(mine / theirs)


def phi_by_rate(
    counter: CooccurrenceCounter, latents: np.ndarray | None = None
) -> PhiByRate:
    """
    Args:
        counter: counts within one SAE.
        latents: mask `[d]` of the latents to take; all that have a phi by default.
    """
    chosen, bins = rate_bins(counter, latents)
    one_hot = np.zeros((counter.d_a, N_BINS))
    one_hot[chosen, bins[chosen]] = 1
    total = np.zeros((N_BINS, N_BINS))
    for first in range(0, counter.d_a, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, counter.d_a)
        phi = np.abs(phi_rows(counter, first, last)).astype(np.float64)
        phi[range(last - first), range(first, last)] = 0
        total += one_hot[first:last].T @ phi @ one_hot
    counts = one_hot.sum(axis=0)
    pairs = np.outer(counts, counts) - np.diag(counts)
    chance = np.zeros_like(total)
    by_chance = total_by_chance(counter.fired_a[chosen], counter.n_tokens, bins[chosen])
    chance[: len(by_chance), : len(by_chance)] = by_chance
    return PhiByRate(total / 2 - chance, pairs / 2)


def rate_bins(
    counter: CooccurrenceCounter, latents: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Which latents have a phi, and the bins of their firing rates.

    Args:
        counter: counts within one SAE.
        latents: mask `[d]` of the latents to take; all that have a phi by default.

    Returns:
        The latents, ascending, and `[d]` the bin of each of all; 0 for those that are not taken.
    """
    mask = measurable(counter)
    if latents is not None:
        mask = mask & latents
    rate = np.where(mask, counter.fired_a / max(counter.n_tokens, 1), 1.0)
    bins = np.floor(-BINS_PER_OCTAVE * np.log2(rate)).astype(int).clip(0, N_BINS - 1)
    return mask.nonzero()[0], bins
