"""Less co-occurrence is claimed where all controls are there and agree, and nowhere else."""

import math
from typing import Any

import pytest

from sae_lens_meta.comparison.result import ComparedSAE
from sae_lens_meta.comparison.verdict import plain_verdict, verdict
from sae_lens_meta.statistics.intervals import Interval
from tests.comparisons import compared, comparison

SOLO = [compared(f"solo_{i}", "solo", 6.0e-3 + i * 1e-5) for i in range(3)]
JOINT = [compared(f"joint_{i}", "joint", 5.5e-3 + i * 1e-5, l2=0.11) for i in range(2)]

# they co-occur less only since their firing rates are further apart
SPREAD = [
    compared(
        f"joint_{i}", "joint", 5.5e-3, l2=0.11, phi_at_equal_rates=6.1e-3 + i * 1e-5
    )
    for i in range(2)
]


def control(**changes: Any) -> ComparedSAE:
    return compared(
        "control", "solo_equal_l2", **{"phi": 5.9e-3, "l2": 0.11, **changes}
    )


def test_an_effect_that_every_control_confirms_is_claimed() -> None:
    (sentence,) = verdict(comparison([*SOLO, control(), *JOINT]))
    assert "-8.4 % against 3 solo" in sentence
    assert "-6.7 % against a solo of equal L2 and L0: latents co-occur less" in sentence
    assert plain_verdict(comparison([*SOLO, control(), *JOINT])) == (
        "Latents of the joint SAEs co-occur less than those of the solo SAEs, at equal "
        "reconstruction and at equal firing rates too."
    )


@pytest.mark.parametrize(
    ("saes", "reason"),
    [
        ([*SOLO[:2], control(), *JOINT], "takes 3 solo seeds"),
        ([*SOLO, *JOINT], "no solo at equal L2"),
        ([*SOLO, control(l2=0.1), *JOINT], "control's normalised L2 is 0.1, not 0.11"),
        ([*SOLO, control(l0=28.0), *JOINT], "control's L0 is 28, not 32"),
        ([*SOLO, control(phi=5.5e-3), *JOINT], "not lie below the solo of equal L2"),
        (
            [*SOLO, control(), *SPREAD],
            "at equal firing rates it differs by +1.6 %",
        ),
        (
            [*SOLO, control(), compared("joint", "joint", 5.99e-3, l2=0.11)],
            "interval over seeds does not lie below 0",
        ),
        (
            [*SOLO, control(), compared("joint", "joint", 6.9e-3, l2=0.11)],
            "interval over seeds does not lie below 0",
        ),
    ],
)
def test_a_missing_or_contradicting_control_forbids_the_claim(
    saes: list[ComparedSAE], reason: str
) -> None:
    (sentence,) = verdict(comparison(saes))
    assert "no claim" in sentence and reason in sentence
    plain = plain_verdict(comparison(saes))
    assert plain.startswith(
        "It is not shown that latents of the joint SAEs co-occur less"
    )


def test_an_interval_that_is_not_a_number_or_a_base_below_zero_claims_nothing() -> None:
    for baseline in ("solo", "solo_equal_l2"):
        made = comparison([*SOLO, control(), *JOINT])
        for difference in made.differences:
            if difference.baseline == baseline:
                difference.over_seeds = Interval(math.nan, math.nan)
        (sentence,) = verdict(made)
        assert "no claim" in sentence
    below = [compared(f"solo_{i}", "solo", -1e-5 * (i + 1)) for i in range(3)]
    (sentence,) = verdict(comparison([*below, control(phi=-1e-5), *JOINT]))
    assert (
        sentence == "joint: no solo SAE whose corrected mean |phi| could be compared."
    )


def test_every_joint_variant_has_its_own_verdict() -> None:
    other = compared("other", "joint", 7e-3, l2=0.11, variant="joint 2")
    first, second = verdict(comparison([*SOLO, control(), *JOINT, other]))
    assert "no claim" not in first and "no claim" in second
    assert plain_verdict(comparison([*SOLO, control(), *JOINT, other])) == (
        "Latents of 1 of 2 variants (joint) co-occur less than those of the solo SAEs; of the "
        "others it is not shown."
    )
    assert plain_verdict(comparison([*SOLO, *JOINT, other])).startswith(
        "For none of 2 variants is it shown"
    )


def test_groups_of_other_names_are_held_against_their_own_baseline() -> None:
    saes = [
        *(compared(f"p{i}", "plain", 6.0e-3 + i * 1e-5) for i in range(3)),
        compared("c", "plain_equal", 5.9e-3, l2=0.11),
        *(
            compared(f"m{i}", "matryoshka", 5.5e-3 + i * 1e-5, l2=0.11)
            for i in range(2)
        ),
    ]
    made = comparison(saes, baseline="plain", control="plain_equal")
    (sentence,) = verdict(made)
    assert sentence.startswith(
        "matryoshka: corrected mean |phi| -8.4 % against 3 plain"
    )
    assert "against plain_equal, of equal L2 and L0: latents co-occur less" in sentence
    made.objections = ["They were trained on different texts."]
    (sentence,) = verdict(made)
    assert "no claim: They were trained on different texts." in sentence
