"""Pairs by firing rate and |phi|: by brute force, and the ones that are kept are drawn evenly."""

from collections import Counter

import numpy as np
import pytest
import torch

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.pair_map import N_COLUMNS, N_ROWS, PairMap, pair_map
from sae_lens_meta.measures.phi_by_rate import phi_by_rate
from tests.helpers import phi_by_chance

D, N = 40, 3000


@pytest.fixture(scope="module")
def firing() -> np.ndarray:
    """Latents of very different rates, that fire together with a common cause; one is silent."""
    random = np.random.default_rng(0)
    rates = np.geomspace(0.4, 0.004, D)
    common, own = random.random((N, 1)), random.random((N, D))
    fires = np.where(random.random((N, D)) < 0.3, common, own) < rates
    fires[:, 5] = False
    return fires


@pytest.fixture(scope="module")
def counter(firing: np.ndarray) -> CooccurrenceCounter:
    counter = CooccurrenceCounter(D)
    counter.update(torch.from_numpy(firing))
    return counter


MASK = np.arange(D) != 9


def mapped(counter: CooccurrenceCounter, n_kept: int = 2, seed: int = 0) -> PairMap:
    return pair_map(counter, phi_by_rate(counter, MASK), MASK, n_kept, seed)


def cell(firing: np.ndarray, i: int, j: int) -> tuple[int, int, float]:
    """Column, row and phi of a pair, by the definitions."""
    phi = float(np.corrcoef(firing[:, i], firing[:, j])[0, 1])
    bins = [int(np.floor(-4 * np.log2(firing[:, k].mean()))) for k in (i, j)]
    row = 0 if abs(phi) <= 1e-5 else int(np.floor(4 * (np.log10(abs(phi)) + 5)))
    return sum(bins) // 4, max(row, 0), phi


def chosen_pairs() -> list[tuple[int, int]]:
    chosen = [i for i in range(D) if i not in (5, 9)]
    return [(i, j) for i in chosen for j in chosen if i < j]


def test_counts_and_means_are_the_brute_force_over_pairs(
    firing: np.ndarray, counter: CooccurrenceCounter
) -> None:
    found = mapped(counter)
    counts = np.zeros((N_COLUMNS, N_ROWS), dtype=int)
    totals = np.zeros(N_COLUMNS)
    for i, j in chosen_pairs():
        column, row, phi = cell(firing, i, j)
        counts[column, row] += 1
        totals[column] += abs(phi) - phi_by_chance(
            firing[:, i].sum(), firing[:, j].sum(), N
        )
    assert (counts > 0).sum() > 20 and (counts > 2).any(), "cells to tell apart"
    assert found.counts == counts.tolist()
    for column, mean in enumerate(found.corrected):
        pairs = counts[column].sum()
        if not pairs:
            assert mean is None
        else:
            assert mean == pytest.approx(totals[column] / pairs, rel=1e-4, abs=1e-7)


def test_kept_pairs_are_pairs_of_their_cells_and_all_of_small_ones(
    firing: np.ndarray, counter: CooccurrenceCounter
) -> None:
    found = mapped(counter)
    kept = found.kept
    per_cell = Counter(kept.cell)
    for column in range(N_COLUMNS):
        for row in range(N_ROWS):
            wanted = min(found.counts[column][row], 2)
            assert per_cell[column * N_ROWS + row] == wanted
    pairs = list(zip(kept.a, kept.b, strict=True))
    assert len(set(pairs)) == len(pairs) and set(pairs) <= set(chosen_pairs())
    for place, (i, j) in enumerate(pairs):
        column, row, phi = cell(firing, i, j)
        assert kept.cell[place] == column * N_ROWS + row
        assert kept.phi[place] == pytest.approx(phi, rel=1e-3)
        assert kept.rate_a[place] == pytest.approx(firing[:, i].mean(), rel=1e-3)
        assert kept.rate_b[place] == pytest.approx(firing[:, j].mean(), rel=1e-3)


def test_every_pair_of_a_cell_is_as_likely_kept(counter: CooccurrenceCounter) -> None:
    """Not the first ones, nor the last."""
    counts = np.array(mapped(counter).counts)
    fullest = int(counts.argmax())
    drawn: Counter[tuple[int, int]] = Counter()
    for seed in range(400):
        kept = mapped(counter, 1, seed).kept
        place = kept.cell.index(fullest)
        drawn[(kept.a[place], kept.b[place])] += 1
    n = int(counts.max())
    assert n > 8 and len(drawn) > 0.9 * n
    expected = 400 / n
    chi2 = sum((drawn[pair] - expected) ** 2 / expected for pair in drawn)
    chi2 += (n - len(drawn)) * expected
    assert chi2 < n + 6 * (2 * n) ** 0.5
    assert mapped(counter) == mapped(counter), "the same seed, the same pairs"
