"""What a comparison allows to claim about co-occurrence."""

import numpy as np

from sae_lens_meta.evaluation.comparison import (
    HEADLINE,
    PHI,
    PHI_AT_EQUAL_RATES,
    Comparison,
    Difference,
)

MIN_SOLO_SEEDS = 3
EQUAL = (
    0.03  # relative: L2 or L0 of a control this near to the joint one's counts as equal
)


def verdict(comparison: Comparison) -> list[str]:
    """
    A sentence for each joint variant.

    Lower co-occurrence is claimed only where the interval over seeds against at least three
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
    to_solo = comparison.difference(variant, "solo", PHI)
    to_control = comparison.difference(variant, "solo_equal_l2", PHI)
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
    if to_solo.n_baseline < MIN_SOLO_SEEDS:
        return f"it takes {MIN_SOLO_SEEDS} solo seeds"
    if to_solo.over_seeds is None or not to_solo.over_seeds.high < 0:
        return "the interval over seeds does not lie below 0"
    if to_control is None:
        return "there is no solo at equal L2"
    at_equal_rates = comparison.difference(variant, "solo", PHI_AT_EQUAL_RATES)
    if at_equal_rates is None or at_equal_rates.percent is None:
        return "it was not compared at equal firing rates"
    over_seeds = at_equal_rates.over_seeds
    if over_seeds is None or not over_seeds.high < 0:
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
    interval = to_control.over_seeds or to_control.over_tokens
    if interval is None or not interval.high < 0:
        return "it does not lie below the solo of equal L2"
    return None
