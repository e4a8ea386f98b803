"""A ratio of two sums over blocks, such as F1, and how sure it and a mean of several is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_lens_meta.statistics.intervals import (
    MIN_BLOCKS,
    HalfSampled,
    Interval,
    block_interval,
    half_samples,
)


@dataclass
class Estimate:
    """
    A figure.

    Attributes:
        value: None where there is nothing to take it of.
        interval: over blocks; None below 8 of them, or where half of them may have nothing.
    """

    value: float | None
    interval: Interval | None = None


@dataclass
class Ratio:
    """
    A ratio of two sums.

    Attributes:
        above, below: the terms of each block, `[n_blocks]`.
    """

    above: np.ndarray
    below: np.ndarray

    @property
    def value(self) -> float | None:
        """None where there is nothing below."""
        below = float(self.below.sum())
        return float(self.above.sum()) / below if below else None

    def resampled(self) -> np.ndarray:
        """Of half samples of the blocks, the same ones for every ratio; NaN where nothing is below."""
        weights = half_samples(len(self.below))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ self.above) / (weights @ self.below)

    def estimate(self) -> Estimate:
        """The ratio with its interval."""
        return mean_estimate([self])


def f1_ratio(
    predicted: np.ndarray, holds: np.ndarray, blocks: np.ndarray, n_blocks: int
) -> Ratio:
    """
    F1 of a prediction: twice what is right, over what is predicted and what holds.

    Args:
        predicted, holds: bool, `[n]`.
        blocks: of each, `[n]`.
        n_blocks: how many there are.
    """
    count = lambda mask: np.bincount(blocks[mask], minlength=n_blocks).astype(float)  # noqa: E731
    return Ratio(2 * count(predicted & holds), count(predicted) + count(holds))


def mean_resampled(ratios: Sequence[Ratio]) -> HalfSampled | None:
    """The mean of those of `ratios` that have a value, of half samples; None below 8 blocks."""
    known = [ratio for ratio in ratios if ratio.value is not None]
    if not known or len(known[0].below) < MIN_BLOCKS:
        return None
    values = np.mean([ratio.resampled() for ratio in known], axis=0)
    return (
        HalfSampled(values, len(known[0].below)) if np.isfinite(values).all() else None
    )


def mean_estimate(ratios: Sequence[Ratio]) -> Estimate:
    """The mean of those of `ratios` that have a value, with its interval over blocks."""
    values = [ratio.value for ratio in ratios if ratio.value is not None]
    if not values:
        return Estimate(None)
    mean, resampled = float(np.mean(values)), mean_resampled(ratios)
    return Estimate(mean, block_interval(mean, resampled) if resampled else None)
