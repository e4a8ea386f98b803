"""Whether a difference to the baseline stands: over seeds, at equal reconstruction, at equal firing rates."""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from sae_lens_meta.comparison.figures import L0, L2, PHI, PHI_AT_EQUAL_RATES
from sae_lens_meta.comparison.result import ComparedSAE, Comparison, Difference
from sae_lens_meta.measures.figures import Figure
from sae_lens_meta.statistics.intervals import (
    LEVEL,
    MIN_BLOCKS,
    Interval,
    percent_over_seeds,
)

MIN_SEEDS = 3
EQUAL = (
    0.03  # relative: L2 or L0 of a control this near to the joint one's counts as equal
)


@dataclass(frozen=True)
class Control:
    """
    Whether a difference is still there under one condition.

    Attributes:
        holds: None where the condition does not concern the figure, or the difference is none.
        why: what contradicts it or is missing, in words; empty where it holds.
        in_short: the same for a sentence without intervals.
    """

    holds: bool | None
    why: str = ""
    in_short: str = ""


HOLDS = Control(True)


@dataclass(frozen=True)
class Controls:
    """
    The three of one figure of one variant.

    Attributes:
        seeds: beyond what another seed gives.
        equal_l2: against the control, which reconstructs as badly.
        equal_rates: where latents that fire equally often are compared.
    """

    seeds: Control
    equal_l2: Control
    equal_rates: Control


def controls(
    comparison: Comparison, variant: str, figure: Figure[ComparedSAE]
) -> Controls:
    """
    Whether a variant's difference to the baseline in `figure`, in the direction that it has, stands.

    Intervals are of the level that the number of variants asks for, as those of the verdict are.
    """
    found = corrected(comparison, variant, comparison.baseline, figure)
    if found is None or not found.percent:
        none = Control(None, "there is no difference in percent")
        return Controls(none, none, none)
    sign = math.copysign(1, found.percent)
    return Controls(
        seeds=over_seeds(comparison, found, sign),
        equal_l2=at_equal_l2(comparison, variant, figure, sign),
        equal_rates=at_equal_rates(comparison, variant, figure, sign),
    )


def over_seeds(comparison: Comparison, found: Difference, sign: float) -> Control:
    """Whether the seeds of the two differ by more than seeds do, towards `sign`."""
    if found.n_baseline < MIN_SEEDS:
        return Control(False, f"it takes {MIN_SEEDS} {comparison.baseline} seeds")
    if not _is_beyond_0(found.over_seeds, sign):
        return Control(
            False,
            f"the interval over seeds does not lie {_side(sign)} 0",
            "another seed may differ as much",
        )
    return HOLDS


def at_equal_l2(
    comparison: Comparison, variant: str, figure: Figure[ComparedSAE], sign: float
) -> Control:
    """Whether the difference is there to the control as well, and that is one."""
    if figure in (L2, L0):
        return Control(None, "this is what the control is brought to")
    found = corrected(comparison, variant, comparison.control, figure)
    if found is None or found.percent is None:
        return Control(False, f"there is no {comparison.baseline} at equal L2")
    for brought in (L2, L0):
        values = [
            np.mean([brought.of(sae) for sae in comparison.variants()[name]])
            for name in (variant, str(comparison.control))
        ]
        if abs(values[1] / values[0] - 1) > EQUAL:
            return Control(
                False,
                f"the control's {brought.label} is {values[1]:.4g}, not {values[0]:.4g}",
            )
    if not _is_beyond_0(found.over_seeds or found.over_tokens, sign):
        return Control(
            False,
            f"it does not lie {_side(sign)} the {comparison.baseline} of equal L2",
            f"those of a {comparison.baseline} that reconstructs as badly do as well",
        )
    return HOLDS


def at_equal_rates(
    comparison: Comparison, variant: str, figure: Figure[ComparedSAE], sign: float
) -> Control:
    """Whether the difference is there where latents that fire equally often are compared."""
    if figure is not PHI:
        return Control(None, "it is not taken at equal firing rates")
    found = corrected(comparison, variant, comparison.baseline, PHI_AT_EQUAL_RATES)
    if found is None or found.percent is None:
        return Control(False, "it was not compared at equal firing rates")
    if not _is_beyond_0(found.over_seeds, sign):
        return Control(
            False,
            f"at equal firing rates it differs by {found.percent:+.1f} %, and "
            f"the interval over seeds does not lie {_side(sign)} 0",
            "among latents that fire equally often the difference is "
            f"{found.percent:+.1f} %",
        )
    return HOLDS


def corrected(
    comparison: Comparison,
    variant: str,
    baseline: str | None,
    figure: Figure[ComparedSAE],
) -> Difference | None:
    """A difference with intervals as wide as the number of variants asks for."""
    if baseline is None:
        return None
    found = comparison.difference(variant, baseline, figure.id)
    variants, n = comparison.variants(), len(comparison.held_against())
    if found is None or found.percent is None or n == 1:
        return found
    level = 1 - (1 - LEVEL) / n
    values, base = (
        [figure.of(sae) for sae in variants[name]] for name in (variant, baseline)
    )
    over_tokens = found.over_tokens
    if over_tokens is not None:
        wider, usual = (
            stats.t.ppf((1 + p) / 2, MIN_BLOCKS - 1) for p in (level, LEVEL)
        )
        half = (over_tokens.high - over_tokens.low) / 2 * float(wider / usual)
        over_tokens = Interval(found.percent - half, found.percent + half)
    return replace(
        found,
        over_seeds=percent_over_seeds(values, base, level),
        over_tokens=over_tokens,
    )


def _is_beyond_0(interval: Interval | None, sign: float) -> bool:
    """Whether it supports a claim; one without width is of copies, and supports none."""
    if interval is None or math.isclose(interval.low, interval.high):
        return False
    return interval.high < 0 if sign < 0 else interval.low > 0


def _side(sign: float) -> str:
    return "below" if sign < 0 else "above"
