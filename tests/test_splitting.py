"""Splitting candidates on firings that are split by construction."""

import pytest
import torch

from sae_lens_meta.evaluation.cooccurrence import CooccurrenceCounter
from sae_lens_meta.evaluation.splitting import splitting_candidates, with_parts_phi

N = 2000


@pytest.fixture
def firings() -> tuple[torch.Tensor, torch.Tensor]:
    """
    Solo latent 3 is split into joint latents 1 and 5, exclusive and covering 60 and 40 %;
    latent 0 has one counterpart, 4; latent 2 is split too, but seen on 20 tokens.
    """
    generator = torch.Generator().manual_seed(0)
    solo = torch.rand(N, 6, generator=generator) < 0.05
    joint = torch.rand(N, 8, generator=generator) < 0.05
    tokens = torch.randperm(N, generator=generator)
    solo[:, 3] = joint[:, 1] = joint[:, 5] = False
    solo[tokens[:100], 3] = True
    joint[tokens[:60], 1] = True
    joint[tokens[60:100], 5] = True
    joint[:, 4] = solo[:, 0]
    solo[:, 2] = joint[:, 6] = joint[:, 7] = False
    solo[:20, 2] = True
    joint[:10, 6] = True
    joint[10:20, 7] = True
    return solo, joint


@pytest.fixture
def counter(firings: tuple[torch.Tensor, torch.Tensor]) -> CooccurrenceCounter:
    counter = CooccurrenceCounter(6, 8)
    counter.update(*firings)
    return counter


def test_the_latent_that_was_split_comes_first_with_its_parts(
    counter: CooccurrenceCounter,
) -> None:
    first, second = splitting_candidates(counter, 2)
    assert (first.latent, first.fired) == (3, 100)
    assert [part.latent for part in first.parts[:2]] == [1, 5]
    assert [part.covers for part in first.parts[:2]] == [0.6, 0.4]
    assert [part.fired for part in first.parts[:2]] == [60, 40]
    by_hand = (N * 60 - 100 * 60) / (100 * (N - 100) * 60 * (N - 60)) ** 0.5
    assert first.parts[0].phi == pytest.approx(by_hand, rel=1e-5)
    assert second.parts[1].phi < 0.2, "one counterpart is no split"


def test_parts_that_fire_on_the_same_tokens_are_told_from_a_split(
    firings: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Joint latent 2 becomes a copy of 4, so that solo latent 0 has two counterparts."""
    solo, joint = firings
    joint[:, 2] = joint[:, 4]
    between, within = CooccurrenceCounter(6, 8), CooccurrenceCounter(8)
    between.update(solo, joint)
    within.update(joint)
    copied, split = with_parts_phi(splitting_candidates(between, 2), within)
    assert (copied.latent, split.latent) == (0, 3)
    assert copied.parts_phi == pytest.approx(1)
    by_hand = -60 * 40 / (60 * (N - 60) * 40 * (N - 40)) ** 0.5
    assert split.parts_phi == pytest.approx(by_hand, rel=1e-5)


def test_latents_seen_too_rarely_are_left_out(counter: CooccurrenceCounter) -> None:
    listed = splitting_candidates(counter, 100)
    assert sorted(c.latent for c in listed) == [0, 1, 3, 4, 5]


def test_bad_input_is_named(counter: CooccurrenceCounter) -> None:
    with pytest.raises(
        ValueError, match="two SAEs and at least 2 parts, got two and 1"
    ):
        splitting_candidates(counter, 3, n_parts=1)
    with pytest.raises(ValueError, match="got one and 3"):
        splitting_candidates(CooccurrenceCounter(6), 3)
