"""Corrected mean |phi| at equal firing rates: by brute force, and where nothing but the rates differs."""

import numpy as np
import pytest
import torch

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import summarize_phi
from sae_lens_meta.measures.phi_by_rate import N_BINS, PhiByRate, phi_by_rate
from tests.helpers import phi_by_chance


def counted(firing: np.ndarray) -> CooccurrenceCounter:
    counter = CooccurrenceCounter(firing.shape[1])
    counter.update(torch.from_numpy(firing))
    return counter


def co_firing(rates: np.ndarray, share: float, n: int, seed: int) -> np.ndarray:
    """Latents of these rates that fire together with a common cause in a share of the cases."""
    random = np.random.default_rng(seed)
    common, own = random.random((n, 1)), random.random((n, len(rates)))
    from_common = random.random((n, len(rates))) < share
    return np.where(from_common, common, own) < rates


def test_it_is_the_brute_force_over_pairs() -> None:
    rates = np.geomspace(0.4, 0.002, 30)
    firing = co_firing(rates, 0.3, 4000, 0)
    firing[:, 3] = False
    mask = np.ones(30, dtype=bool)
    mask[7] = False
    found = phi_by_rate(counted(firing), mask)
    total, pairs = np.zeros((N_BINS, N_BINS)), np.zeros((N_BINS, N_BINS))
    chosen = [i for i in range(30) if i not in (3, 7)]
    bins = {
        i: min(int(np.floor(-4 * np.log2(firing[:, i].mean()))), N_BINS - 1)
        for i in chosen
    }
    for i in chosen:
        for j in chosen:
            if i != j:
                phi = np.corrcoef(firing[:, i], firing[:, j])[0, 1]
                chance = phi_by_chance(firing[:, i].sum(), firing[:, j].sum(), 4000)
                total[bins[i], bins[j]] += (abs(phi) - chance) / 2
                pairs[bins[i], bins[j]] += 1 / 2
    np.testing.assert_allclose(found.total, total, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.pairs, pairs)
    assert found.pairs.sum() == 28 * 27 / 2
    summary = summarize_phi(counted(firing), mask)
    assert found.mean == pytest.approx(summary.corrected, rel=1e-5)


def test_rates_that_spread_alone_change_the_mean_and_not_the_ratio() -> None:
    """A latent that fires rarely cannot correlate much with one that fires often."""
    # the same share of common causes, rates equal in the one and spread in the other
    equal = phi_by_rate(counted(co_firing(np.full(80, 0.03), 0.2, 60_000, 1)))
    spread_rates = np.concatenate([np.full(40, 0.03), np.geomspace(0.3, 0.003, 40)])
    spread = phi_by_rate(counted(co_firing(spread_rates, 0.2, 60_000, 2)))
    assert spread.mean < 0.9 * equal.mean
    assert spread.ratio_at_equal_rates(equal) == pytest.approx(1, abs=0.03)
    assert equal.ratio_at_equal_rates(spread) == pytest.approx(1, abs=0.03)


def test_more_co_firing_shows_at_equal_rates() -> None:
    rates = np.geomspace(0.1, 0.01, 60)
    less = phi_by_rate(counted(co_firing(rates, 0.2, 30_000, 3)))
    more = phi_by_rate(counted(co_firing(rates, 0.4, 30_000, 4)))
    assert more.ratio_at_equal_rates(less) > 2
    assert more.ratio_at_equal_rates(less) == pytest.approx(
        1 / less.ratio_at_equal_rates(more)
    )
    assert more.ratio_at_equal_rates(more) == 1


def test_bins_that_one_sae_lacks_are_left_out_of_both() -> None:
    shape = (N_BINS, N_BINS)
    pairs, total = np.zeros(shape), np.zeros(shape)
    pairs[2, 2], total[2, 2] = 10, 1.0
    here = PhiByRate(total, pairs)
    elsewhere = PhiByRate(total.copy(), pairs.copy())
    elsewhere.pairs[5, 5], elsewhere.total[5, 5] = 1000, 900.0
    assert elsewhere.ratio_at_equal_rates(here) == 1
    elsewhere.pairs[2, 2] = 0
    with pytest.raises(
        ValueError, match="No two of the 1000 and 10 pairs.*more tokens"
    ):
        elsewhere.ratio_at_equal_rates(here)
