"""Whether two SAEs differ in a score, over pairs of latents that were matched to each other."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test

from sae_lens_meta.statistics.intervals import Interval, mean_interval

N_EXCHANGES = 10_000
MIN_PAIRS = 8  # below, an interval says little


@dataclass
class PairedDifference:
    """
    A score of the first SAE less that of the second, over matched latents.

    Attributes:
        score: its name.
        n_pairs: pairs where both have it.
        n_one_missing: pairs where one of them has it.
        n_both_missing: pairs where neither has.
        mean_first, mean_second: over the pairs where both have it; None where there are none.
        difference: of these means.
        interval: of the difference, Student's over pairs; None below 8 pairs.
        p: of a permutation test that exchanges the two SAEs within pairs, two-sided.
    """

    score: str
    n_pairs: int
    n_one_missing: int
    n_both_missing: int
    mean_first: float | None = None
    mean_second: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None


def paired_difference(
    score: str, pairs: list[tuple[float | None, float | None]], seed: int = 0
) -> PairedDifference:
    """The difference over `pairs` of a score, None where it is missing."""
    both = np.array([p for p in pairs if None not in p], dtype=float).reshape(-1, 2)
    n_missing = [sum(value is None for value in pair) for pair in pairs]
    found = PairedDifference(score, len(both), n_missing.count(1), n_missing.count(2))
    if len(both) == 0:
        return found
    differences = both[:, 0] - both[:, 1]
    found.mean_first, found.mean_second = both.mean(axis=0).tolist()
    found.difference = float(differences.mean())
    if len(both) >= MIN_PAIRS:
        found.interval = mean_interval(differences)
        found.p = _permutation_p(differences, seed)
    return found


def _permutation_p(differences: np.ndarray, seed: int) -> float:
    """Share of exchanges, the identity among them, that give as large a difference."""
    found = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",  # of a single one: its signs
        n_resamples=N_EXCHANGES,
        batch=100,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
