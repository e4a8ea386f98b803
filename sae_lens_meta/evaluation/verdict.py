"""What a comparison allows to claim about co-occurrence."""

import math
from dataclasses import replace

import numpy as np
from scipy import stats

from sae_lens_meta.evaluation.comparison import (
    HEADLINE,
    PHI,
    PHI_AT_EQUAL_RATES,
    Comparison,
    Difference,
)
from sae_lens_meta.evaluation.intervals import (
    LEVEL,
    MIN_BLOCKS,
    Interval,
    percent_over_seeds,
)

MIN_SOLO_SEEDS = 3
EQUAL = (
    0.03  # relative: L2 or L0 of a control this near to the joint one's counts as equal
)


def verdict(comparison: Comparison) -> list[str]:
    """
    A sentence for each joint variant.

    The more variants are tried, the likelier is one that seems to co-occur less by chance: each
    interval is then of the level 1 - 0.05 / (number of joint variants), Bonferroni's. Lower
    co-occurrence is claimed only where the interval over seeds against at least three
    solo SAEs lies below 0, at equal firing rates too, and so does the difference to a solo SAE
    of equal L2 and L0: worse reconstruction, or firing rates that are further apart, alone can
    lower mean |phi|.
    """
    return [
        _of_variant(comparison, variant)
        for variant, saes in comparison.variants().items()
        if saes[0].role == "joint"
    ]


def _of_variant(comparison: Comparison, variant: str) -> str:
    to_solo = _corrected(comparison, variant, "solo", PHI)
    to_control = _corrected(comparison, variant, "solo_equal_l2", PHI)
    if to_solo is None or to_solo.percent is None:
        return f"{variant}: no solo SAE whose {PHI} could be compared."
    found = (
        f"{variant}: {PHI} {to_solo.percent:+.1f} % against {to_solo.n_baseline} solo"
    )
    if reason := _what_is_missing(comparison, variant, to_solo, to_control):
        return f"{found}; no claim: {reason}."
    assert to_control is not None and to_control.percent is not None
    return (
        f"{found} and {to_control.percent:+.1f} % against a solo of equal L2 and L0: "
        "latents co-occur less."
    )


def _what_is_missing(
    comparison: Comparison,
    variant: str,
    to_solo: Difference,
    to_control: Difference | None,
) -> str | None:
    if comparison.repeated_trainings:
        return comparison.repeated_trainings[0].rstrip(".")
    if to_solo.n_baseline < MIN_SOLO_SEEDS:
        return f"it takes {MIN_SOLO_SEEDS} solo seeds"
    if not _is_below_0(to_solo.over_seeds):
        return "the interval over seeds does not lie below 0"
    if to_control is None:
        return "there is no solo at equal L2"
    at_equal_rates = _corrected(comparison, variant, "solo", PHI_AT_EQUAL_RATES)
    if at_equal_rates is None or at_equal_rates.percent is None:
        return "it was not compared at equal firing rates"
    if not _is_below_0(at_equal_rates.over_seeds):
        return (
            f"at equal firing rates it differs by {at_equal_rates.percent:+.1f} %, and "
            "the interval over seeds does not lie below 0"
        )
    for figure in ("normalised L2", "L0"):
        values = [
            np.mean([HEADLINE[figure].of(sae) for sae in comparison.variants()[name]])
            for name in (variant, "solo_equal_l2")
        ]
        if abs(values[1] / values[0] - 1) > EQUAL:
            return f"the control's {figure} is {values[1]:.4g}, not {values[0]:.4g}"
    if not _is_below_0(to_control.over_seeds or to_control.over_tokens):
        return "it does not lie below the solo of equal L2"
    return None


def _is_below_0(interval: Interval | None) -> bool:
    """Whether it supports a claim; one without width is of copies, and supports none."""
    if interval is None or math.isclose(interval.low, interval.high):
        return False
    return interval.high < 0


def _corrected(
    comparison: Comparison, variant: str, baseline: str, figure: str
) -> Difference | None:
    """A difference with intervals as wide as the number of joint variants asks for."""
    found = comparison.difference(variant, baseline, figure)
    variants = comparison.variants()
    n = sum(saes[0].role == "joint" for saes in variants.values())
    if found is None or found.percent is None or n == 1:
        return found
    level = 1 - (1 - LEVEL) / n
    values, base = (
        [HEADLINE[figure].of(sae) for sae in variants[name]]
        for name in (variant, baseline)
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
