"""
How sure a figure is: over blocks of tokens, and over seeds.

Neighbouring tokens are alike, so what is drawn anew is whole blocks of the stream, the same
ones for every SAE compared. A resample is half of the blocks, m of n, drawn without replacement.
The mean over one varies by S^2 / m (1 - m / n), S^2 being the blocks' variance with divisor n - 1.
For m = n / 2 that is S^2 / n, the unbiased estimate for the mean over all of them; an odd n leaves
m a half too small and the variance (n - m) / m times as large, which is divided out. It has
n - 1 degrees of freedom, so the interval is Student's: 1.96 spreads of 8 blocks cover 91 %.

The bootstrap, with replacement (`scipy.stats.bootstrap`), will not do for mean |phi|: how often it
repeats a block differs from one resample to the next, with that the sampling noise, and |.| turns
the noise into a shift.
Shifts common to all resamples remain, so the spread is used, not the percentiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
N_RESAMPLES = 400
MIN_BLOCKS = 8  # below, a spread says little


@dataclass
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def show(self, spec: str) -> str:
        """Both ends as text, each in the format `spec`."""
        return f"{format(self.low, spec)} to {format(self.high, spec)}"


@dataclass
class HalfSampled:
    """
    A figure of half samples of a stream.

    Attributes:
        values: of each half sample, `[n_resamples]`.
        n_blocks: of the stream that they were drawn from.
    """

    values: np.ndarray
    n_blocks: int


def half_samples(
    n_blocks: int, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Which blocks each resample has, `[n_resamples, n_blocks]`, 1 or 0."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((n_resamples, n_blocks))
    weights[:, : n_blocks // 2] = 1
    return generator.permuted(weights, axis=1)


def block_interval(estimate: float, resampled: HalfSampled) -> Interval:
    """Student's interval of `estimate`, over the blocks of the stream."""
    n, in_half = resampled.n_blocks, resampled.n_blocks // 2
    error = float(np.std(resampled.values, ddof=1)) * (in_half / (n - in_half)) ** 0.5
    half = _t(n - 1) * error
    return Interval(estimate - half, estimate + half)


def percent_over_blocks(
    mean: float,
    base_mean: float,
    drawn: Sequence[HalfSampled],
    base_drawn: Sequence[HalfSampled],
) -> Interval:
    """
    Interval, over blocks, of how many percent `mean` is above `base_mean`.

    The ratio's change is taken to first order: a shift that both share falls out.

    Args:
        mean: over the SAEs of one kind.
        base_mean: over those of the other.
        drawn: half samples of each SAE of the one.
        base_drawn: of each of the other, on the same blocks.
    """
    ours, theirs = (
        np.mean([half.values for half in kind], axis=0) for kind in (drawn, base_drawn)
    )
    spread = 100 * (ours - mean / base_mean * theirs) / base_mean
    percent = 100 * (mean / base_mean - 1)
    return block_interval(percent, HalfSampled(spread, drawn[0].n_blocks))


def mean_interval(
    values: Sequence[float] | np.ndarray, level: float = LEVEL
) -> Interval | None:
    """Student's interval of a mean over seeds, latents or pairs; None for a single one."""
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = _t(n - 1, level) * float(np.std(values, ddof=1)) / n**0.5
    return Interval(mean - half, mean + half)


def percent_over_seeds(
    values: list[float], baseline: list[float], level: float = LEVEL
) -> Interval | None:
    """
    Interval, over seeds, of how many percent the mean of `values` is above that of `baseline`.

    Student's, with the variance pooled over both, so that a single SAE can be held against
    several of the other kind; it then assumes that its kind varies as they do. The
    ratio's own error is taken to first order. None where neither has two.
    """
    n, n_base = len(values), len(baseline)
    degrees = n + n_base - 2
    if degrees < 1:
        return None
    mean, base = float(np.mean(values)), float(np.mean(baseline))
    squares = np.var(values) * n + np.var(baseline) * n_base
    error = (squares / degrees * (1 / n + (mean / base) ** 2 / n_base)) ** 0.5
    half = 100 * _t(degrees, level) * float(error) / abs(base)
    percent = 100 * (mean / base - 1)
    return Interval(percent - half, percent + half)


def _t(degrees: int, level: float = LEVEL) -> float:
    return float(stats.t.ppf(0.5 + level / 2, degrees))
