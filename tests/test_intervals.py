"""Intervals against what is seen when the stream, or the seeds, are really drawn anew."""

import numpy as np
import pytest
import torch
from scipy import stats

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import summarize_phi
from sae_lens_meta.measures.phi_blocks import PhiBlocks
from sae_lens_meta.statistics.intervals import (
    HalfSampled,
    block_interval,
    half_samples,
    mean_interval,
    percent_over_seeds,
)

D, N_BLOCKS, PER_BLOCK = 40, 20, 300


def stream(topics: float, generator: torch.Generator) -> tuple[float, PhiBlocks]:
    """A stream whose firing rates change from block to block, and its mean |phi|."""
    blocks, counter = PhiBlocks(D, N_BLOCKS), CooccurrenceCounter(D)
    base = torch.linspace(0.01, 0.1, D)
    for block in range(N_BLOCKS):
        rates = base * (1 + topics * torch.randn(D, generator=generator)).clamp(0, 5)
        firing = torch.rand(PER_BLOCK, D, generator=generator) < rates
        firing[:, :15] |= torch.rand(PER_BLOCK, 1, generator=generator) < 0.02
        blocks.update(firing.float(), block)
        counter.update(firing)
    return summarize_phi(counter).mean_abs, blocks


@pytest.mark.parametrize("topics", [0.0, 0.5])
def test_the_spread_over_blocks_is_that_of_streams_drawn_anew(topics: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, everything = half_samples(N_BLOCKS, 100), np.ones(D, dtype=bool)
    found, spreads = [], []
    for _ in range(30):
        mean_abs, blocks = stream(topics, generator)
        found.append(mean_abs)
        spreads.append(blocks.resampled(weights, everything).std())
    # the standard deviation of 30 streams is known to 13 %
    assert np.mean(spreads) == pytest.approx(np.std(found), rel=0.35)


@pytest.mark.parametrize("n_blocks", [8, 9, 64])
def test_the_interval_of_a_mean_is_students_over_blocks(n_blocks: int) -> None:
    values = np.random.default_rng(0).normal(size=n_blocks)
    resampled = half_samples(n_blocks, 40_000) @ values / (n_blocks // 2)
    interval = block_interval(float(values.mean()), HalfSampled(resampled, n_blocks))
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.02 * width)
    assert interval.high == pytest.approx(high, abs=0.02 * width)


@pytest.mark.parametrize("n_blocks", [8, 9, 40])
def test_the_interval_over_blocks_covers_the_truth_19_times_in_20(
    n_blocks: int,
) -> None:
    n_streams = 10_000
    blocks = np.random.default_rng(0).normal(5, 1, size=(n_blocks, n_streams))
    resampled = half_samples(n_blocks) @ blocks / (n_blocks // 2)
    hits = 0
    for mean, values in zip(blocks.mean(axis=0), resampled.T, strict=True):
        interval = block_interval(float(mean), HalfSampled(values, n_blocks))
        hits += interval.low < 5 < interval.high
    sampling_error = (0.95 * 0.05 / n_streams) ** 0.5
    assert hits / n_streams == pytest.approx(0.95, abs=3 * sampling_error)


def test_phi_of_all_blocks_is_that_of_the_latents_drawn() -> None:
    generator = torch.Generator().manual_seed(1)
    blocks, counter = PhiBlocks(D, 4, n_latents=25), CooccurrenceCounter(D)
    for block in range(4):
        firing = torch.rand(PER_BLOCK, D, generator=generator) < 0.1
        blocks.update(firing.float(), block)
        counter.update(firing)
    compared = np.arange(D) % 3 > 0
    drawn = np.zeros(D, dtype=bool)
    drawn[blocks.latents] = True
    (found,) = blocks.resampled(np.ones((1, 4)), compared)
    expected = summarize_phi(counter, drawn & compared).mean_abs
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "n_base"), [(3, 3), (1, 3), (2, 4)])
def test_the_interval_over_seeds_covers_the_truth_19_times_in_20(
    n: int, n_base: int
) -> None:
    generator = np.random.default_rng(0)
    truth, hits = 100 * (9.5 / 10 - 1), 0
    for _ in range(2000):
        values = generator.normal(9.5, 0.2, size=n).tolist()
        interval = percent_over_seeds(
            values, generator.normal(10, 0.2, n_base).tolist()
        )
        assert interval is not None
        hits += interval.low < truth < interval.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_seeds_of_one_kind_agree_with_scipy() -> None:
    values = [0.3, 0.5, 0.1, 0.4]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    interval = mean_interval(values)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert mean_interval([0.3]) is None
    assert percent_over_seeds([0.3], [0.2]) is None
