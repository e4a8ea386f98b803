"""Latents of one SAE that seem to be split into several of another."""

from dataclasses import dataclass, replace

import numpy as np

from sae_lens_meta.evaluation.cooccurrence import CooccurrenceCounter
from sae_lens_meta.evaluation.phi import phi_rows, top_partners

MIN_FIRED = 30  # tokens, below which a phi is mostly noise


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
    A latent that two or more of the other SAE resemble.

    Attributes:
        latent: which, of the first SAE.
        fired: tokens it fires on.
        parts: latents of the second SAE by phi, highest first, the second of which ranks
            the candidates: a latent with a single counterpart has none to speak of.
        parts_phi: phi between the first two parts, near 0 or below where the latent is split
            and near 1 where they are duplicates; None before `with_parts_phi`.
    """

    latent: int
    fired: int
    parts: list[Part]
    parts_phi: float | None = None


def splitting_candidates(
    counter: CooccurrenceCounter, n_candidates: int, n_parts: int = 3
) -> list[SplitCandidate]:
    """
    The latents of the first SAE with the highest second-best phi in the second.

    Args:
        counter: counts between two SAEs on the same tokens, the one that may be split first.
        n_candidates: how many to list; fewer where fewer fire on at least 30 tokens.
        n_parts: latents of the second SAE to list for each, at least 2.

    Raises:
        ValueError: if the counter is of one SAE, or `n_parts` below 2.
    """
    if counter.is_within or n_parts < 2:
        raise ValueError(
            "Splitting takes a counter of two SAEs and at least 2 parts, got "
            f"{'one' if counter.is_within else 'two'} and {n_parts}."
        )
    partners, _ = top_partners(counter, n_parts)
    measurable = counter.fired_a >= MIN_FIRED
    order = (-partners.phi[:, 1] + 2 * ~measurable).argsort(kind="stable")
    return [
        _candidate(counter, int(latent), partners.latents[latent], partners.phi[latent])
        for latent in order[: min(n_candidates, int(measurable.sum()))]
    ]


def with_parts_phi(
    candidates: list[SplitCandidate], counter: CooccurrenceCounter
) -> list[SplitCandidate]:
    """
    The candidates, and how their parts go together.

    Args:
        candidates: of `splitting_candidates`.
        counter: counts within the second SAE.
    """
    found = []
    for candidate in candidates:
        first, second = (part.latent for part in candidate.parts[:2])
        phi = phi_rows(counter, first, first + 1)[0, second]
        found.append(replace(candidate, parts_phi=float(phi)))
    return found


def _candidate(
    counter: CooccurrenceCounter, latent: int, others: np.ndarray, phi: np.ndarray
) -> SplitCandidate:
    fired = int(counter.fired_a[latent])
    together = counter.together[latent]
    parts = [
        Part(
            latent=int(other),
            phi=float(value),
            fired=int(counter.fired_b[other]),
            covers=float(together[other] / fired),
        )
        for other, value in zip(others, phi, strict=True)
    ]
    return SplitCandidate(latent, fired, parts)
