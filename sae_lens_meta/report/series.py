"""What the plots of a report show, as numbers and in words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sae_lens_meta.comparison.result import ComparedSAE
from sae_lens_meta.measures.histograms import Histogram

MIN_PAIRS = 30  # of the baseline, below which a percentage says little
N_SAID = 4
Variants = dict[str, list[ComparedSAE]]


@dataclass
class Series:
    """
    One variant's line.

    Attributes:
        variant: which.
        number: of it among all variants, whose colour, dash and marker it has.
        x, y: places, and values there.
        said: what they show, in words.
    """

    variant: str
    number: int
    x: np.ndarray
    y: np.ndarray
    said: str


def distributions(
    variants: Variants, of: Callable[[ComparedSAE], Histogram]
) -> list[Series]:
    """Mean share of each bin over a variant's SAEs, by the bin's middle."""
    shares = [_mean_shares(saes, of) for saes in variants.values()]
    edges = np.array(of(next(iter(variants.values()))[0]).edges)
    filled = np.flatnonzero(np.sum(shares, axis=0))
    shown = slice(filled[0], filled[-1] + 1)
    middles = ((edges[1:] + edges[:-1]) / 2)[shown]
    return [
        Series(
            variant, number, middles, of_one[shown], _quantiles(middles, of_one[shown])
        )
        for number, (variant, of_one) in enumerate(zip(variants, shares, strict=True))
    ]


def more_above(variants: Variants, baseline: str) -> list[Series]:
    """
    Pairs of |phi| above each edge of the histogram, in percent more than the baseline has.

    Means over a variant's SAEs; empty where the baseline has few pairs.
    """
    edges = np.array(variants[baseline][0].phi.edges)
    values = edges[(edges >= 0) & (edges < 1)]
    is_above = np.abs(edges[1:] + edges[:-1]) / 2 > values[:, None]
    counts = {
        variant: is_above @ np.mean([sae.phi.counts for sae in saes], axis=0)
        for variant, saes in variants.items()
    }
    base = counts[baseline]
    some = base >= MIN_PAIRS
    if some.sum() < 2:
        return []
    percent = {v: 100 * (n[some] / base[some] - 1) for v, n in counts.items()}
    return [
        Series(variant, number, values[some], y, _at_places(values[some], y))
        for number, (variant, y) in enumerate(percent.items())
        if variant != baseline
    ]


def _mean_shares(
    saes: list[ComparedSAE], of: Callable[[ComparedSAE], Histogram]
) -> np.ndarray:
    counts = np.array([of(sae).counts for sae in saes], dtype=float)
    return (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)


def _quantiles(x: np.ndarray, shares: np.ndarray) -> str:
    below = np.cumsum(shares)
    half, most = (x[np.searchsorted(below, q * below[-1])] for q in (0.5, 0.99))
    return f"half below {half:.3g}, 99 % below {most:.3g}"


def _at_places(x: np.ndarray, percent: np.ndarray) -> str:
    places = np.unique(np.linspace(0, len(x) - 1, N_SAID).round().astype(int))
    return ", ".join(f"{percent[i]:+.1f} % above {x[i]:.2g}" for i in places)
