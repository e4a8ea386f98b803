"""What a comparison allows to claim about co-occurrence."""

from sae_lens_meta.comparison.controls import (
    Control,
    at_equal_l2,
    at_equal_rates,
    corrected,
    over_seeds,
)
from sae_lens_meta.comparison.figures import PHI
from sae_lens_meta.comparison.members import EQUAL_L2
from sae_lens_meta.comparison.result import Comparison

LESS = -1.0  # the direction that is claimed


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


def plain_verdict(comparison: Comparison) -> str:
    """The verdict over all variants, in one sentence."""
    missing = {
        variant: _missing(comparison, variant) for variant in comparison.held_against()
    }
    claimed = [variant for variant, reason in missing.items() if reason is None]
    less = f"co-occur less than those of the {comparison.baseline} SAEs"
    if len(missing) == 1:
        ((variant, reason),) = missing.items()
        group = comparison.called()[variant]
        if reason is None:
            return (
                f"Latents of the {group} SAEs {less}, at equal reconstruction and at equal "
                "firing rates too."
            )
        return (
            f"It is not shown that latents of the {group} SAEs {less}: "
            f"{reason.in_short or reason.why}."
        )
    if not claimed:
        return f"For none of {len(missing)} variants is it shown that latents {less}."
    others = "" if len(claimed) == len(missing) else "; of the others it is not shown"
    return (
        f"Latents of {len(claimed)} of {len(missing)} variants ({'; '.join(claimed)}) {less}"
        f"{others}."
    )


def what_is_missing(comparison: Comparison, variant: str) -> str | None:
    """Why it may not be claimed that a variant's latents co-occur less; None where it may."""
    missing = _missing(comparison, variant)
    return missing.why if missing else None


def _missing(comparison: Comparison, variant: str) -> Control | None:
    """The first thing that does not hold."""
    to_baseline = corrected(comparison, variant, comparison.baseline, PHI)
    if to_baseline is None or to_baseline.percent is None:
        return Control(
            False, f"no {comparison.baseline} SAE whose {PHI.label} could be compared"
        )
    if comparison.objections:
        return Control(False, comparison.objections[0].rstrip("."))
    found = [
        over_seeds(comparison, to_baseline, LESS),
        at_equal_rates(comparison, variant, PHI, LESS),
        at_equal_l2(comparison, variant, PHI, LESS),
    ]
    return next((control for control in found if not control.holds), None)


def _of_variant(comparison: Comparison, variant: str) -> str:
    baseline = comparison.baseline
    to_baseline = corrected(comparison, variant, baseline, PHI)
    reason = what_is_missing(comparison, variant)
    if to_baseline is None or to_baseline.percent is None:
        return f"{variant}: {reason}."
    found = (
        f"{variant}: {PHI.label} {to_baseline.percent:+.1f} % against {to_baseline.n_baseline} "
        f"{baseline}"
    )
    if reason:
        return f"{found}; no claim: {reason}."
    to_control = corrected(comparison, variant, comparison.control, PHI)
    assert to_control is not None and to_control.percent is not None
    return (
        f"{found} and {to_control.percent:+.1f} % against {_called(comparison)}: "
        "latents co-occur less."
    )


def _called(comparison: Comparison) -> str:
    if comparison.control == EQUAL_L2:
        return "a solo of equal L2 and L0"
    return f"{comparison.control}, of equal L2 and L0"
