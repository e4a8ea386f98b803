"""Distributions as they are stored and plotted: few bins, chosen to be looked at."""

from dataclasses import dataclass

import numpy as np

COSINE_BINS = 100
PHI_BINS = 200
RATE_EDGES = np.linspace(-6, 0, 61)
# of activations: five bins a decade, their logarithms
LOG_EDGES = np.linspace(-4, 6, 51)


@dataclass
class Histogram:
    """
    Attributes:
        edges: of the bins, one more than there are bins.
        counts: in each bin.
    """

    edges: list[float]
    counts: list[int]


def cosine_histogram(cosines: np.ndarray) -> Histogram:
    """Cosines, from -1 to 1."""
    counts, edges = np.histogram(cosines, bins=COSINE_BINS, range=(-1, 1))
    return Histogram(edges.tolist(), counts.tolist())


def coarse(edges: np.ndarray, counts: np.ndarray, n_bins: int) -> Histogram:
    """A fine histogram with neighbouring bins joined to `n_bins`."""
    joined = counts.reshape(n_bins, -1).sum(axis=1)
    return Histogram(edges[:: len(counts) // n_bins].tolist(), joined.tolist())


def firing_rate_histogram(fired: np.ndarray, n_tokens: int) -> Histogram:
    """Latents by log10 of the share of tokens they fire on, silent ones left out."""
    rates = np.log10(fired[fired > 0] / n_tokens).clip(RATE_EDGES[0])
    counts, edges = np.histogram(rates, bins=RATE_EDGES)
    return Histogram(edges.tolist(), counts.tolist())


def log_counts(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """
    Values other than 0 by log10 of their size, in bins of `LOG_EDGES`, group by group.

    Args:
        values: `[n]`; what is beyond the edges counts in the last bin on its side.
        group: `[n]`, of each.
        n_groups: how many groups there are.

    Returns:
        `[n_groups, 50]`.
    """
    n_bins = len(LOG_EDGES) - 1
    logs = np.log10(np.abs(values).astype(np.float64))
    bins = (np.searchsorted(LOG_EDGES, logs, side="right") - 1).clip(0, n_bins - 1)
    counts = np.bincount(group * n_bins + bins, minlength=n_groups * n_bins)
    return counts.reshape(n_groups, n_bins)
