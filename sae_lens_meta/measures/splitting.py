"""
Latents of one SAE that two of another divide between them.

Two latents agree by the tokens on which both fire, as a share of those on which either does. A
latent is split where two others, its parts, taken as one latent that fires where either does,
agree with it better than any single latent of their SAE does. The split score is by how much:
0.5 for two exclusive halves, 0.2 for exclusive parts of 80 and 20 %; 0 for duplicates, of
which the second adds nothing; hardly above 0 where one latent fires as the whole one does and
another on a few of its tokens; below 0 where the parts mostly fire elsewhere.

How often both parts fire on a token of the latent is not counted, since that takes all
triples of latents. It is no more often than any two of the three fire together, and is taken
to be as often: the score is a lower bound, exact where the parts exclude each other.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import phi_of_counts, top_partners

MIN_FIRED = 30  # tokens, below which counts of pairs are mostly noise
N_PARTNERS = 6  # latents of the highest phi, of which two may be the parts
SPLIT_SCORE = 0.2  # above which a latent counts as split


@dataclass
class Part:
    """
    A latent of the second SAE that fires where a latent of the first does.

    Attributes:
        latent: which.
        phi: with the latent of the first SAE.
        fired: tokens it fires on.
        covers: share of the first latent's tokens that it fires on too.
    """

    latent: int
    phi: float
    fired: int
    covers: float


@dataclass
class SplitCandidate:
    """
    A latent and the two of the other SAE that divide it best.

    Attributes:
        latent: which, of the first SAE.
        fired: tokens it fires on.
        parts: the two, the one that covers more of the latent first.
        parts_phi: phi between them, below 0 where they exclude each other and near 1 where
            they are duplicates.
        score: how much better the two together agree with the latent than any latent alone;
            None in a comparison of format 3, whose candidates were ranked otherwise.
    """

    latent: int
    fired: int
    parts: list[Part]
    parts_phi: float
    score: float | None = None


@dataclass
class Partnered:
    """
    What the counts between two SAEs tell of splits; it takes little memory, unlike them.

    Attributes:
        n_tokens: tokens counted.
        fired: `[d_a]`, tokens that each latent of the first SAE fires on.
        fired_other: `[d_b]`, those of the second.
        partners: `[d_a, n]`, the latents of the second of the highest phi.
        together: `[d_a, n]`, tokens on which the latent and each of them fire.
    """

    n_tokens: int
    fired: np.ndarray
    fired_other: np.ndarray
    partners: np.ndarray
    together: np.ndarray


@dataclass
class Splits:
    """
    Latents of one SAE that another seems to split.

    Attributes:
        candidates: those of the highest score, highest first.
        n_latents: latents that fire on at least 30 tokens, which are the ones looked at.
        n_split: how many of these have a score above 0.2.
    """

    candidates: list[SplitCandidate]
    n_latents: int
    n_split: int


def partnered(counter: CooccurrenceCounter, n_partners: int = N_PARTNERS) -> Partnered:
    """
    The latents of the second SAE of which two may be the parts of each latent of the first.

    Args:
        counter: counts between two SAEs on the same tokens, the one that may be split first.
        n_partners: how many, at least 2.

    Raises:
        ValueError: if the counter is of one SAE, `n_partners` is below 2, or an SAE has one
            latent only.
    """
    n_partners = min(n_partners, counter.d_a, counter.d_b)
    if counter.is_within or n_partners < 2:
        raise ValueError(
            "Splitting takes a counter of two SAEs and 2 partners of each latent, got "
            f"{'one' if counter.is_within else 'two'} and {n_partners}."
        )
    partners = top_partners(counter, n_partners)[0].latents
    return Partnered(
        n_tokens=counter.n_tokens,
        fired=counter.fired_a,
        fired_other=counter.fired_b,
        partners=partners,
        together=counter.together[np.arange(counter.d_a)[:, None], partners],
    )


def find_splits(
    found: Partnered, within: CooccurrenceCounter, n_candidates: int
) -> Splits:
    """
    The latents of the first SAE by how well two of the second divide them.

    Args:
        found: `partnered` of the two SAEs.
        within: counts within the second SAE, on the same tokens.
        n_candidates: how many to list; fewer where fewer fire on at least 30 tokens.
    """
    pairs = list(combinations(range(found.partners.shape[1]), 2))
    scores = np.stack([_scores(found, within, a, b) for a, b in pairs], axis=1)
    best = scores.argmax(axis=1)
    score = scores.max(axis=1)
    is_seen = found.fired >= MIN_FIRED
    order = np.where(is_seen, -score, np.inf).argsort(kind="stable")
    return Splits(
        candidates=[
            _candidate(found, within, latent, pairs[best[latent]], float(score[latent]))
            for latent in order[: min(n_candidates, int(is_seen.sum()))].tolist()
        ],
        n_latents=int(is_seen.sum()),
        n_split=int((score[is_seen] > SPLIT_SCORE).sum()),
    )


def _scores(
    found: Partnered, within: CooccurrenceCounter, a: int, b: int
) -> np.ndarray:
    """The score `[d_a]` of each latent with its partners `a` and `b` as parts."""
    fired, fired_other = found.fired[:, None], found.fired_other[found.partners]
    alone = _agreement(fired, fired_other, found.together).max(axis=1)
    both = within.pairs(found.partners[:, a], found.partners[:, b])
    of_parts = found.together[:, [a, b]].astype(np.int64)
    # on a token of the latent both parts fire no more often than any two of the three do
    on_both = np.minimum(of_parts.min(axis=1), both)
    of_either = of_parts.sum(axis=1) - on_both
    either = fired_other[:, [a, b]].sum(axis=1) - both
    return _agreement(found.fired, either, of_either) - alone


def _agreement(
    fired: np.ndarray, fired_other: np.ndarray, together: np.ndarray
) -> np.ndarray:
    """Tokens on which both fire as a share of those on which either does; 0 of none."""
    together = together.astype(np.float64)
    return together / np.maximum(fired + fired_other - together, 1)


def _candidate(
    found: Partnered,
    within: CooccurrenceCounter,
    latent: int,
    pair: tuple[int, int],
    score: float,
) -> SplitCandidate:
    fired, n = int(found.fired[latent]), found.n_tokens
    parts = []
    for place in sorted(pair, key=lambda place: -found.together[latent, place]):
        other, both = found.partners[latent, place], found.together[latent, place]
        fired_other = found.fired_other[other]
        phi = phi_of_counts(both, found.fired[latent], fired_other, n)
        parts.append(
            Part(int(other), float(phi), int(fired_other), float(both / fired))
        )
    first, second = (part.latent for part in parts)
    both = within.pairs(np.array([first]), np.array([second]))[0]
    parts_phi = phi_of_counts(both, within.fired_a[first], within.fired_a[second], n)
    return SplitCandidate(latent, fired, parts, float(parts_phi), score)
