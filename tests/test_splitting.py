"""Splits that are made, and what resembles them, against brute force over tokens."""

from itertools import combinations

import numpy as np
import pytest
import torch

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.splitting import (
    SplitCandidate,
    Splits,
    find_splits,
    partnered,
)

N, D_SOLO, D_JOINT = 4000, 12, 16
SPLIT, DUPLICATED, ABSORBED, CONTAINED, BROAD, RARE = range(6)  # the rest: unrelated


def tokens_of(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(N, generator=generator)[:n]


@pytest.fixture
def firings() -> tuple[torch.Tensor, torch.Tensor]:
    """Indicators of the solo and the joint SAE; every case has two joint latents or three."""
    generator = torch.Generator().manual_seed(0)
    solo = torch.rand(N, D_SOLO, generator=generator) < 0.05
    joint = torch.rand(N, D_JOINT, generator=generator) < 0.05
    solo[:, :6] = joint[:, :13] = False

    tokens = tokens_of(200, generator)  # 60 and 40 %, and a copy of the larger part
    solo[tokens, SPLIT] = True
    joint[tokens[:120], 0] = joint[tokens[:120], 2] = True
    joint[tokens[120:], 1] = True

    tokens = tokens_of(200, generator)  # two that miss other 10 % of it: phi 0.89
    solo[tokens, DUPLICATED] = True
    joint[tokens[:180], 3] = joint[tokens[20:], 4] = True

    tokens = tokens_of(200, generator)  # 5 % are taken over by a latent of their own
    solo[tokens, ABSORBED] = True
    joint[tokens[:190], 5] = joint[tokens[190:], 6] = True

    tokens = tokens_of(200, generator)  # the whole, and a half of it as well
    solo[tokens, CONTAINED] = True
    joint[tokens, 7] = joint[tokens[:100], 8] = True

    solo[tokens_of(200, generator), BROAD] = True  # covered by chance, by frequent ones
    joint[:, 9:11] = torch.rand(N, 2, generator=generator) < 0.4

    solo[:20, RARE] = True
    joint[:10, 11] = joint[10:20, 12] = True
    return solo, joint


def found(
    firings: tuple[torch.Tensor, torch.Tensor], n_candidates: int = 100
) -> Splits:
    solo, joint = firings
    between, within = (
        CooccurrenceCounter(solo.shape[1], joint.shape[1]),
        CooccurrenceCounter(joint.shape[1]),
    )
    between.update(solo, joint)
    within.update(joint)
    return find_splits(partnered(between), within, n_candidates)


def test_a_split_ranks_first_and_nothing_that_resembles_one_is_taken_for_it(
    firings: tuple[torch.Tensor, torch.Tensor],
) -> None:
    splits = found(firings)
    scores = {one.latent: one.score or 0.0 for one in splits.candidates}
    first = splits.candidates[0]
    assert first.latent == SPLIT and first.fired == 200
    assert first.score == pytest.approx(1 - 0.6)
    assert sorted(scores.values(), reverse=True) == list(scores.values())
    # each part has 180 of 200, and neither of them the other's 20
    assert scores[DUPLICATED] == pytest.approx(1 - 0.9)
    assert scores[ABSORBED] == pytest.approx(0.05)
    assert scores[CONTAINED] == pytest.approx(0)
    assert scores[BROAD] < 0.02
    assert all(score < 0.05 for latent, score in scores.items() if latent > RARE)
    assert splits.n_split == 1


def test_the_parts_are_those_that_divide_it_though_duplicates_are_nearer(
    firings: tuple[torch.Tensor, torch.Tensor],
) -> None:
    (split,) = found(firings, 1).candidates
    first, second = split.parts
    assert first.latent in (0, 2) and second.latent == 1
    assert (first.covers, second.covers) == (0.6, 0.4)
    assert (first.fired, second.fired) == (120, 80)
    solo, joint = (x.double().numpy() for x in firings)
    for part in split.parts:
        phi = np.corrcoef(solo[:, SPLIT], joint[:, part.latent])[0, 1]
        assert part.phi == pytest.approx(phi)
    assert split.parts_phi == pytest.approx(np.corrcoef(joint[:, :2].T)[0, 1])
    assert split.parts_phi < 0


def test_latents_seen_too_rarely_are_neither_listed_nor_counted(
    firings: tuple[torch.Tensor, torch.Tensor],
) -> None:
    splits = found(firings)
    assert RARE not in [one.latent for one in splits.candidates]
    assert splits.n_latents == len(splits.candidates) == D_SOLO - 1
    listed = found(firings, 2)
    assert listed.candidates == splits.candidates[:2]
    assert (listed.n_latents, listed.n_split) == (splits.n_latents, splits.n_split)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def test_the_score_is_the_best_of_all_pairs_and_no_more_than_triples_give() -> None:
    """On parts that overlap, in and outside of what they divide."""
    generator = torch.Generator().manual_seed(1)
    cause = torch.rand(N, 8, generator=generator) < 0.06
    solo = cause[:, :4] | cause[:, 4:]
    joint = torch.cat([cause, solo & (torch.rand(N, 4, generator=generator) < 0.7)], 1)
    joint |= torch.rand(joint.shape, generator=generator) < 0.02
    splits = found((solo, joint))
    assert splits.n_latents == 4
    a, b = solo.numpy(), joint.numpy()
    phi = np.corrcoef(a.T.astype(float), b.T.astype(float))[:4, 4:]
    gaps = []
    for one in splits.candidates:
        latent = a[:, one.latent]
        partners = np.argsort(-phi[one.latent])[:6]
        alone = max(agreement(latent, b[:, j]) for j in partners)
        bounds = {}
        for i, j in combinations(partners.tolist(), 2):
            p, q = b[:, i], b[:, j]
            shared = min((latent & p).sum(), (latent & q).sum(), (p & q).sum())
            covered = (latent & p).sum() + (latent & q).sum() - shared
            either = (p | q).sum()
            bounds[frozenset((i, j))] = (
                covered / (latent.sum() + either - covered) - alone
            )
        first, second = (part.latent for part in one.parts)
        best = max(bounds.values())
        assert bounds[frozenset((first, second))] == best
        assert one.score == pytest.approx(best)
        exact = agreement(latent, b[:, first] | b[:, second]) - alone
        assert best > 0.15
        gaps.append(exact - best)
    assert min(gaps) > -1e-12 and max(gaps) > 1e-3


def test_latents_that_never_or_always_fire_are_no_splits_and_bad_input_is_named() -> (
    None
):
    silent = torch.zeros(100, 3, dtype=torch.bool)
    splits = found((silent, silent))
    assert splits == Splits([], 0, 0)
    every = torch.ones(100, 3, dtype=torch.bool)
    always: list[SplitCandidate] = found((every, every)).candidates
    assert [one.score for one in always] == [0, 0, 0]
    with pytest.raises(ValueError, match="2 partners of each latent, got two and 1"):
        partnered(CooccurrenceCounter(6, 1))
    with pytest.raises(ValueError, match="got one and 6"):
        partnered(CooccurrenceCounter(6))
