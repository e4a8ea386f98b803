"""What a comparison allows to claim about co-occurrence."""

import math
from dataclasses import replace

import numpy as np
from scipy import stats

from sae_lens_meta.comparison.figures import L0, L2, PHI, PHI_AT_EQUAL_RATES
from sae_lens_meta.comparison.members import EQUAL_L2
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


def verdict(comparison: Comparison) -> list[str]:
    """
    A sentence for each variant that is held against the baseline.

    The more variants are tried, the likelier is one that seems to co-occur less by chance: each
    interval is then of the level 1 - 0.05 / (number of variants), Bonferroni's. Lower
    co-occurrence is claimed only where the interval over seeds against at least three
    SAEs of the baseline lies below 0, at equal firing rates too, and so does the difference to
    the control, of equal L2 and L0: worse reconstruction, or firing rates that are further apart, alone can
    lower mean |phi|.
    """
    return [_of_variant(comparison, variant) for variant in comparison.held_against()]


def _of_variant(comparison: Comparison, variant: str) -> str:
    baseline = comparison.baseline
    to_baseline = _corrected(comparison, variant, baseline, PHI)
    to_control = _corrected(comparison, variant, comparison.control, PHI)
    if to_baseline is None or to_baseline.percent is None:
        return f"{variant}: no {baseline} SAE whose {PHI.label} could be compared."
    found = (
        f"{variant}: {PHI.label} {to_baseline.percent:+.1f} % against {to_baseline.n_baseline} "
        f"{baseline}"
    )
    if reason := _what_is_missing(comparison, variant, to_baseline, to_control):
        return f"{found}; no claim: {reason}."
    assert to_control is not None and to_control.percent is not None
    return (
        f"{found} and {to_control.percent:+.1f} % against {_called(comparison)}: "
        "latents co-occur less."
    )


def _what_is_missing(
    comparison: Comparison,
    variant: str,
    to_baseline: Difference,
    to_control: Difference | None,
) -> str | None:
    if comparison.objections:
        return comparison.objections[0].rstrip(".")
    if to_baseline.n_baseline < MIN_SEEDS:
        return f"it takes {MIN_SEEDS} {comparison.baseline} seeds"
    if not _is_below_0(to_baseline.over_seeds):
        return "the interval over seeds does not lie below 0"
    if to_control is None:
        return f"there is no {comparison.baseline} at equal L2"
    at_equal_rates = _corrected(
        comparison, variant, comparison.baseline, PHI_AT_EQUAL_RATES
    )
    if at_equal_rates is None or at_equal_rates.percent is None:
        return "it was not compared at equal firing rates"
    if not _is_below_0(at_equal_rates.over_seeds):
        return (
            f"at equal firing rates it differs by {at_equal_rates.percent:+.1f} %, and "
            "the interval over seeds does not lie below 0"
        )
    for figure in (L2, L0):
        values = [
            np.mean([figure.of(sae) for sae in comparison.variants()[name]])
            for name in (variant, str(comparison.control))
        ]
        if abs(values[1] / values[0] - 1) > EQUAL:
            return (
                f"the control's {figure.label} is {values[1]:.4g}, not {values[0]:.4g}"
            )
    if not _is_below_0(to_control.over_seeds or to_control.over_tokens):
        return f"it does not lie below the {comparison.baseline} of equal L2"
    return None


def _called(comparison: Comparison) -> str:
    if comparison.control == EQUAL_L2:
        return "a solo of equal L2 and L0"
    return f"{comparison.control}, of equal L2 and L0"


def _is_below_0(interval: Interval | None) -> bool:
    """Whether it supports a claim; one without width is of copies, and supports none."""
    if interval is None or math.isclose(interval.low, interval.high):
        return False
    return interval.high < 0


def _corrected(
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
