"""
Pairs of latents by how often they fire and how high their |phi| is: how many there are, and some of them.

A mean over all pairs moves when firing rates do, and when latents of the same rates come to fire together
more or less. The map shows both: how many pairs there are at each rate, and what |phi| they have there.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import phi_of_counts
from sae_lens_meta.measures.phi_by_rate import (
    BINS_PER_OCTAVE,
    N_BINS,
    PhiByRate,
    rate_bins,
)

# columns of half an octave of the two latents' geometric mean rate, from 1 down to 2^-16
N_COLUMNS = 2 * N_BINS // BINS_PER_OCTAVE
# rows of a quarter of a decade of |phi|, from 1e-5 to 1; the lowest one holds all below
ROWS_PER_DECADE, N_ROWS = 4, 20
N_KEPT = 2  # pairs of each cell
_DIGITS = 4


@dataclass
class KeptPairs:
    """
    Pairs of latents, one in each place of the lists.

    Attributes:
        cell: of the map, column times 20 plus row.
        a, b: the latents, a below b.
        phi: of the two, with its sign.
        rate_a, rate_b: share of the tokens that each fires on.
    """

    cell: list[int]
    a: list[int]
    b: list[int]
    phi: list[float]
    rate_a: list[float]
    rate_b: list[float]


@dataclass
class PairMap:
    """
    The pairs i < j of one SAE by their firing rates and |phi|.

    Attributes:
        counts: pairs in each cell, `[32][20]`. Column c holds pairs whose geometric mean rate is
            about 2^-((c+1)/2) to 2^-(c/2): the bins of `PhiByRate`, four of whose sums i + j
            make a column. Row r holds |phi| from 10^(r/4 - 5) to 10^((r+1)/4 - 5), the first one
            all below.
        corrected: mean |phi| less what chance gives of each column's pairs; None where there are
            none.
        kept: up to two pairs of each cell, drawn at random.
    """

    counts: list[list[int]]
    corrected: list[float | None]
    kept: KeptPairs


def pair_map(
    counter: CooccurrenceCounter,
    by_rate: PhiByRate,
    latents: np.ndarray | None = None,
    n_kept: int = N_KEPT,
    seed: int = 0,
) -> PairMap:
    """
    Args:
        counter: counts within one SAE.
        by_rate: `phi_by_rate` of the same counter and latents.
        latents: mask `[d]` of the latents to take; all that have a phi by default.
        n_kept: pairs to keep of each cell; all of a cell with fewer.
        seed: of which.
    """
    chosen, bins = rate_bins(counter, latents)
    counts, kept = _cells(
        counter.together,
        counter.fired_a,
        counter.n_tokens,
        chosen,
        bins,
        counter.d_a,
        n_kept,
        seed,
    )
    return PairMap(
        counts.tolist(),
        _by_column(by_rate),
        _kept_pairs(counter, counts, kept),
    )


def _by_column(by_rate: PhiByRate) -> list[float | None]:
    i, j = np.indices(by_rate.pairs.shape)
    column = ((i + j) // BINS_PER_OCTAVE).ravel()
    total, pairs = (
        np.bincount(column, weights=of.ravel(), minlength=N_COLUMNS)
        for of in (by_rate.total, by_rate.pairs)
    )
    return [
        float(t / n) if n else None
        for t, n in zip(total[:N_COLUMNS], pairs[:N_COLUMNS], strict=True)
    ]


def _kept_pairs(
    counter: CooccurrenceCounter, counts: np.ndarray, kept: np.ndarray
) -> KeptPairs:
    n_kept = kept.shape[2]
    is_kept = np.arange(n_kept) < np.minimum(counts, n_kept)[..., None]
    column, row, _ = is_kept.nonzero()
    a, b = kept[is_kept].T
    fired, n = counter.fired_a, counter.n_tokens
    phi = phi_of_counts(counter.pairs(a, b), fired[a], fired[b], n)
    return KeptPairs(
        (column * N_ROWS + row).tolist(),
        a.tolist(),
        b.tolist(),
        *(_rounded(of) for of in (phi, fired[a] / n, fired[b] / n)),
    )


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


@njit(cache=True)
def _cells(together, fired, n, chosen, bins, d, n_kept, seed):  # type: ignore[no-untyped-def]
    """Pairs in each cell, and some of them: Vitter's algorithm R, one reservoir a cell."""
    np.random.seed(seed)
    counts = np.zeros((N_COLUMNS, N_ROWS), dtype=np.int64)
    kept = np.zeros((N_COLUMNS, N_ROWS, n_kept, 2), dtype=np.int64)
    for r in range(len(chosen)):
        i = chosen[r]
        a = fired[i] * 1.0
        offset = i * d - i * (i + 1) // 2 - i - 1
        scale_a = np.sqrt(a * (n - a))
        for s in range(r + 1, len(chosen)):
            j = chosen[s]
            b = fired[j] * 1.0
            covariance = n * 1.0 * together[offset + j] - a * b
            phi = abs(covariance) / (scale_a * np.sqrt(b * (n - b)))
            row = 0
            if phi > 1e-5:
                row = min(int(ROWS_PER_DECADE * (np.log10(phi) + 5)), N_ROWS - 1)
            column = min((bins[i] + bins[j]) // BINS_PER_OCTAVE, N_COLUMNS - 1)
            place = counts[column, row]
            counts[column, row] += 1
            if place >= n_kept:
                place = np.random.randint(0, place + 1)
            if place < n_kept:
                kept[column, row, place, 0] = i
                kept[column, row, place, 1] = j
    return counts, kept
