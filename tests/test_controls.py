"""Controls of every figure: what stands, what does not, and what is not asked."""

import pytest

from sae_lens_meta.comparison.controls import controls
from sae_lens_meta.comparison.figures import (
    HEADLINE,
    L0,
    L2,
    PHI,
    PHI_AT_EQUAL_RATES,
)
from sae_lens_meta.comparison.result import ComparedSAE
from sae_lens_meta.report.forest import forest
from tests.comparisons import compared, comparison

SOLO = [compared(f"solo_{i}", "solo", 6.0e-3 + i * 1e-5) for i in range(3)]


def joint(phi: float, at_equal_rates: float | None = None) -> list[ComparedSAE]:
    return [
        compared(
            f"joint_{i}",
            "joint",
            phi + i * 1e-5,
            l2=0.11,
            phi_at_equal_rates=at_equal_rates and at_equal_rates + i * 1e-5,
        )
        for i in range(2)
    ]


def control(phi: float, l2: float = 0.11) -> list[ComparedSAE]:
    return [compared(f"c{i}", "solo_equal_l2", phi + i * 1e-5, l2) for i in range(2)]


@pytest.mark.parametrize("sign", [-1, 1], ids=["lower", "higher"])
def test_a_difference_stands_or_falls_in_the_direction_that_it_has(sign: int) -> None:
    """Better or worse: what is worse by the control's doing is not said of the penalty either."""
    away, back = 6.0e-3 + sign * 5e-4, 6.0e-3 - sign * 5e-4
    found = controls(comparison([*SOLO, *control(6e-3), *joint(away)]), "joint", PHI)
    assert found.seeds.holds and found.equal_l2.holds and found.equal_rates.holds
    found = controls(
        comparison([*SOLO, *control(6e-3), *joint(away, back)]), "joint", PHI
    )
    assert found.seeds.holds and found.equal_l2.holds
    assert found.equal_rates.holds is False
    side = "below" if sign < 0 else "above"
    assert f"does not lie {side} 0" in found.equal_rates.why
    found = controls(comparison([*SOLO, *control(away), *joint(away)]), "joint", PHI)
    assert found.equal_l2.holds is False
    assert found.equal_l2.why == f"it does not lie {side} the solo of equal L2"
    found = controls(comparison([*SOLO, *control(6e-3), *joint(6.01e-3)]), "joint", PHI)
    assert found.seeds.holds is False


def test_what_a_control_does_not_concern_is_neither_held_nor_broken() -> None:
    made = comparison([*SOLO, *control(6e-3), *joint(5e-3)])
    for figure in (L2, L0):
        assert controls(made, "joint", figure).equal_l2.holds is None
    for figure in HEADLINE.values():
        if figure is not PHI:
            assert controls(made, "joint", figure).equal_rates.holds is None
    counts = controls(made, "joint", HEADLINE["latents_compared"])
    assert counts.seeds.holds is counts.equal_l2.holds is None
    assert controls(made, "joint", PHI_AT_EQUAL_RATES).seeds.holds


def test_without_control_or_seeds_nothing_holds() -> None:
    found = controls(comparison([*SOLO, *joint(5e-3)]), "joint", PHI)
    assert found.equal_l2.holds is False and "no solo at equal L2" in found.equal_l2.why
    found = controls(
        comparison([*SOLO[:2], *control(6e-3), *joint(5e-3)]), "joint", PHI
    )
    assert found.seeds.holds is False and "takes 3 solo seeds" in found.seeds.why


def test_the_axis_shows_every_sae_and_bounds_what_would_hide_them() -> None:
    """One figure of a wide interval must not press all others together."""
    wild = [compared("w0", "joint", 1e-3), compared("w1", "joint", 1.1e-2)]
    found = forest(comparison([*SOLO, *control(6e-3), *wild]))
    lanes = {lane.variant: lane for lane in found.rows[0].lanes}
    interval = lanes["joint"].interval
    assert interval and interval.low < -100 and interval.high > 100
    assert [mark.is_beyond for mark in lanes["joint"].seeds] == [False, False]
    assert lanes["joint"].low >= 0 and lanes["joint"].high <= 100
    assert min(p for p, _ in found.ticks) >= -100
    at = {mark.name: mark.at for mark in lanes["joint"].seeds}
    assert at["w0"] < found.zero < at["w1"]
    assert lanes["solo_equal_l2"].is_control and not lanes["joint"].is_control
    assert "latents compared" in found.left_out
