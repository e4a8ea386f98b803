"""The shift null against brute force in float64, and on latents that fire in bursts."""

import numpy as np
import pytest
import torch

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import PhiSummary, summarize_phi
from sae_lens_meta.measures.shifted_pairs import SHIFT, ShiftedPairs

D, POSITIONS = 40, 16


def bursty(n_contexts: int, seed: int) -> torch.Tensor:
    """
    Firings `[n_contexts, POSITIONS, D]` of latents that are independent of each other.

    A latent fires in one context of ten, there on half of the tokens; at the first
    position, which is a habit too, it fires in every other context.
    """
    generator = torch.Generator().manual_seed(seed)
    is_on = torch.rand(n_contexts, 1, D, generator=generator) < 0.1
    firing = is_on & (torch.rand(n_contexts, POSITIONS, D, generator=generator) < 0.5)
    firing[:, 0] = torch.rand(n_contexts, D, generator=generator) < 0.5
    return firing


def shifted(firing: torch.Tensor, per_batch: int = 8) -> CooccurrenceCounter:
    pairs = ShiftedPairs(firing.shape[-1])
    for batch in firing.float().split(per_batch):
        pairs.update(batch)
    return pairs.result()


def summary(firing: torch.Tensor) -> PhiSummary:
    counter = CooccurrenceCounter(firing.shape[-1])
    counter.update(firing)
    return summarize_phi(counter, shifted=shifted(firing))


@pytest.mark.parametrize(
    ("n_contexts", "by"),
    [(200, SHIFT), (129, SHIFT), (128, SHIFT), (127, 63), (65, 32), (50, 25)],
)
def test_each_context_is_counted_against_another_and_every_latent_as_often(
    n_contexts: int, by: int
) -> None:
    firing = bursty(n_contexts, seed=0)
    counter = shifted(firing, per_batch=7)
    other = torch.from_numpy(np.roll(firing.numpy(), by, axis=0))
    a, b = (x.double().flatten(0, 1).numpy() for x in (firing, other))
    assert np.array_equal(counter.together, a.T @ b)
    assert np.array_equal(counter.fired_a, a.sum(0))
    assert np.array_equal(counter.fired_b, a.sum(0))


def test_the_mean_is_that_of_numpys_phi_over_pairs_of_different_latents() -> None:
    firing = bursty(150, seed=1)
    firing[..., 5] = False
    firing[..., 6] = True
    a = firing.double().flatten(0, 1).numpy()
    b = np.roll(firing.double().numpy(), SHIFT, axis=0).reshape(a.shape)
    with np.errstate(invalid="ignore"):
        phi = np.abs(np.corrcoef(a.T, b.T)[:D, D:])
    np.fill_diagonal(phi, np.nan)
    found = summary(firing)
    assert found.expected_by_shift == pytest.approx(np.nanmean(phi), rel=1e-6)
    assert found.expected_by_shift is not None
    assert found.corrected_by_shift == found.mean_abs - found.expected_by_shift


def test_bursts_alone_pass_for_co_occurrence_unless_contexts_are_shifted() -> None:
    found = [summary(bursty(300, seed)) for seed in range(12)]
    by_chance = np.array([one.corrected for one in found])
    by_shift = np.array([one.corrected_by_shift for one in found])
    floor = np.mean([one.expected_by_chance for one in found])
    assert by_chance.min() > 0.5 * floor, "the latents are independent, and it is not 0"
    standard_error = by_shift.std(ddof=1) / len(found) ** 0.5
    assert abs(by_shift.mean()) < 3 * standard_error
    assert standard_error < 0.05 * floor


def test_what_fires_together_in_a_context_is_not_taken_off() -> None:
    """Each latent of the second half follows one of the first on half of its tokens."""
    firing = bursty(600, seed=3)
    follows = torch.rand(firing.shape, generator=torch.Generator().manual_seed(4)) < 0.5
    half = D // 2
    firing[..., half:] = firing[..., :half] & follows[..., :half]
    found = summary(firing)
    assert found.corrected_by_shift is not None
    # a 39th of the pairs have a phi of about sqrt(1 / 2)
    expected = 0.5**0.5 / (D - 1)
    # of one draw of 600 contexts, whose noise is a fifth of it
    assert found.corrected_by_shift == pytest.approx(expected, rel=0.3)


def test_a_single_context_cannot_be_shifted() -> None:
    with pytest.raises(ValueError, match="takes two of them, got 1. Give more text"):
        shifted(bursty(1, seed=0))


def test_no_two_contexts_that_are_held_together_are_near() -> None:
    """Neighbours may be of one document, whose topics they share."""
    for n_contexts in (65, 66, 100, 127, 129, 191):
        by = min(SHIFT, n_contexts // 2)
        nearest = min(by, n_contexts - by)
        assert nearest >= min(SHIFT, n_contexts // 2)
        pairs = ShiftedPairs(n_contexts)
        # context i alone has latent i
        pairs.update(torch.eye(n_contexts)[:, None])
        i, j = np.nonzero(pairs.result().together)
        apart = np.abs(i - j)
        assert np.minimum(apart, n_contexts - apart).min() >= nearest


def test_a_latent_that_fires_in_two_directions_fires_in_both() -> None:
    firing = bursty(40, seed=2).float()
    signs = torch.where(torch.rand(firing.shape) < 0.5, -1.0, 1.0)
    pairs = ShiftedPairs(D)
    pairs.update(firing * signs)
    assert np.array_equal(pairs.result().together, shifted(firing > 0).together)
