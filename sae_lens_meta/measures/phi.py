"""The phi coefficient of co-firing latents, and how much of it chance alone would give."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit, prange
from scipy.special import gammaln

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter

BIN_WIDTH = 1e-3  # of the histogram of phi
BLOCK_ROWS = 512


@dataclass
class PhiSummary:
    """
    Phi over all pairs i < j of some latents of one SAE.

    Attributes:
        n_tokens: tokens counted.
        n_latents: latents compared: asked for, and neither silent nor firing on every token.
        mean_abs: mean |phi| over their pairs.
        expected_by_chance: the same, expected if each latent fired on as many tokens as it
            does, drawn at random for each by itself; it falls with the number of tokens.
        corrected: `mean_abs - expected_by_chance`: 0 for latents that fire independently of
            each other and anew on every token. Latents that fire in bursts, or at certain
            positions of a context, show more than that though they have nothing to do with
            each other. For pairs that do co-fire it is low by at most `expected_by_chance`.
        mean_abs_with_silent: mean |phi| where every pair of a latent that was left out
            counts as 0.
        tokens_for_small_chance: tokens at which chance would give 1 % of `corrected`, once
            every pair is expected on several tokens: 2 / (pi (0.01 corrected)^2); None where
            `corrected` is not above 0.
        expected_by_shift: mean |phi| between the latents in each context and the others in
            another one (`ShiftedPairs`): what bursts and positions alone give, chance
            included; None where it was not counted.
        corrected_by_shift: `mean_abs - expected_by_shift`: 0 for latents that are independent
            of each other, bursts or not.
    """

    n_tokens: int
    n_latents: int
    mean_abs: float
    expected_by_chance: float
    corrected: float
    mean_abs_with_silent: float
    tokens_for_small_chance: int | None
    expected_by_shift: float | None = None
    corrected_by_shift: float | None = None


@dataclass
class Partners:
    """
    The latents of the highest phi with each latent.

    Attributes:
        latents: `[d, n]`, highest first.
        phi: `[d, n]`.
    """

    latents: np.ndarray
    phi: np.ndarray


def measurable(counter: CooccurrenceCounter) -> np.ndarray:
    """Mask `[d_a]` of latents whose phi is defined: they fire, and not on every token."""
    return (counter.fired_a > 0) & (counter.fired_a < counter.n_tokens)


def summarize_phi(
    counter: CooccurrenceCounter,
    latents: np.ndarray | None = None,
    shifted: CooccurrenceCounter | None = None,
) -> PhiSummary:
    """
    Mean |phi| within one SAE, beside what chance alone would give.

    Args:
        counter: counts within one SAE.
        latents: mask `[d]` of the latents to compare, for instance those alive in every SAE
            of a comparison; all by default.
        shifted: counts of the same codes against shifted ones, from `ShiftedPairs`.

    Raises:
        ValueError: if fewer than two latents have a phi, or the counter is of two SAEs.
    """
    chosen = _chosen(counter, latents)
    n_pairs = len(chosen) * (len(chosen) - 1) / 2
    fired = counter.fired_a
    total, _ = _scan(counter.together, fired, counter.n_tokens, chosen, counter.d_a)
    by_chance = total_by_chance(fired[chosen], counter.n_tokens)
    chance = float(by_chance.sum()) / n_pairs
    mean_abs = total / n_pairs
    corrected = mean_abs - chance
    by_shift = None if shifted is None else _mean_abs_between(shifted, chosen)
    n_asked = counter.d_a if latents is None else int(latents.sum())
    return PhiSummary(
        n_tokens=counter.n_tokens,
        n_latents=len(chosen),
        mean_abs=mean_abs,
        expected_by_chance=chance,
        corrected=corrected,
        mean_abs_with_silent=total / (n_asked * (n_asked - 1) / 2),
        tokens_for_small_chance=math.ceil(2 / (math.pi * (0.01 * corrected) ** 2))
        if corrected > 0
        else None,
        expected_by_shift=by_shift,
        corrected_by_shift=None if by_shift is None else mean_abs - by_shift,
    )


def total_by_chance(
    fired: np.ndarray, n_tokens: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """
    Sum over pairs i < j of the expected |phi| of latents with these firing counts.

    Each is taken to fire on tokens drawn at random, independently of the others.

    Given both counts, N_ij is then hypergeometric with mean mu = N_i N_j / n, and its mean
    absolute deviation is `2 m (n - N_i - N_j + m) / n * P(N_ij = m)` with m = floor(mu) + 1
    (de Moivre's sum; Diaconis and Zabell 1991). Rare latents are thus Poisson as they should
    be, not Gaussian.

    Args:
        fired: firing counts `[d]`.
        n_tokens: n.
        groups: of the latents `[d]`, numbered from 0; latents of the same count are of the same
            group. All are of one by default.

    Returns:
        `[groups, groups]`, by the groups of the two; half of a pair of two groups stands on
        either side of the diagonal.
    """
    counts, first, multiplicity = np.unique(
        fired, return_index=True, return_counts=True
    )
    group = np.zeros_like(counts) if groups is None else groups[first]
    n_groups = int(group.max(initial=0)) + 1
    log_factorial = gammaln(np.arange(n_tokens + 1) + 1.0)
    by_count = _chance(counts, multiplicity, group, n_groups, log_factorial, n_tokens)
    totals = np.zeros((n_groups, n_groups))
    np.add.at(totals, group, by_count)
    return (totals + totals.T) / 2


def phi_histogram(
    counter: CooccurrenceCounter, latents: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    How phi is distributed over the pairs within one SAE.

    Returns:
        The 2,001 edges of bins of width 0.001 from -1 to 1, and the pairs in each bin.

    Raises:
        ValueError: as `summarize_phi`.
    """
    chosen = _chosen(counter, latents)
    _, bins = _scan(
        counter.together, counter.fired_a, counter.n_tokens, chosen, counter.d_a
    )
    n_bins = round(2 / BIN_WIDTH)
    return np.linspace(-1, 1, n_bins + 1), bins.sum(axis=0)


def phi_rows(counter: CooccurrenceCounter, first: int, last: int) -> np.ndarray:
    """
    Phi of latents `first` to `last` with all others, `[last - first, d_b]` float32.

    0 where a latent is silent or fires on every token.
    """
    fired_a, fired_b = counter.fired_a[first:last, None], counter.fired_b[None]
    phi = phi_of_counts(counter.rows(first, last), fired_a, fired_b, counter.n_tokens)
    return phi.astype(np.float32)


def phi_of_counts(
    together: np.ndarray, fired_a: np.ndarray, fired_b: np.ndarray, n_tokens: int
) -> np.ndarray:
    """
    `(n N_ij - N_i N_j) / sqrt(N_i (n - N_i) N_j (n - N_j))` in float64.

    Args:
        together: N_ij.
        fired_a: N_i, of a shape that broadcasts with the others.
        fired_b: N_j.
        n_tokens: n.

    Returns:
        0 where one fires on no token or on every one.
    """
    n = float(n_tokens)
    fired_a, fired_b = fired_a.astype(np.float64), fired_b.astype(np.float64)
    covariance = n * together - fired_a * fired_b
    scale = np.sqrt(fired_a * (n - fired_a)) * np.sqrt(fired_b * (n - fired_b))
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)


def top_partners(
    counter: CooccurrenceCounter, n_top: int
) -> tuple[Partners, Partners | None]:
    """
    The `n_top` latents of the highest phi with each latent, itself excepted.

    Returns:
        Partners of the first SAE's latents and, between two SAEs, of the second's; None
        within one.
    """
    n_top = min(n_top, counter.d_b - counter.is_within, counter.d_a)
    of_a, best, places = [], None, None
    for first in range(0, counter.d_a, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, counter.d_a)
        phi = torch.from_numpy(phi_rows(counter, first, last))
        if counter.is_within:
            phi[range(last - first), range(first, last)] = -torch.inf
        of_a.append(phi.topk(n_top, dim=1))
        if not counter.is_within:
            rows = torch.arange(first, last)[:, None].expand_as(phi)
            if best is not None and places is not None:
                phi, rows = torch.cat([best, phi]), torch.cat([places, rows])
            best, order = phi.topk(min(n_top, len(phi)), dim=0)
            places = rows.gather(0, order)
    partners_of_a = Partners(
        torch.cat([top.indices for top in of_a]).numpy(),
        torch.cat([top.values for top in of_a]).numpy(),
    )
    if best is None or places is None:
        return partners_of_a, None
    return partners_of_a, Partners(places.t().numpy(), best.t().numpy())


def _mean_abs_between(counter: CooccurrenceCounter, chosen: np.ndarray) -> float:
    """Mean |phi| of chosen latents of the first SAE with the others of them in the second."""
    total = 0.0
    for first in range(0, counter.d_a, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, counter.d_a)
        phi = np.abs(phi_rows(counter, first, last))
        phi[range(last - first), range(first, last)] = 0
        rows = chosen[(chosen >= first) & (chosen < last)] - first
        total += phi[np.ix_(rows, chosen)].sum(dtype=np.float64)
    return total / (len(chosen) * (len(chosen) - 1))


def _chosen(counter: CooccurrenceCounter, latents: np.ndarray | None) -> np.ndarray:
    if not counter.is_within:
        raise ValueError(
            "Mean |phi| is of pairs within one SAE; this counter is of two."
        )
    mask = measurable(counter)
    if latents is not None:
        mask = mask & np.asarray(latents, dtype=bool)
    chosen = mask.nonzero()[0]
    if len(chosen) < 2:
        raise ValueError(
            f"{len(chosen)} of {counter.d_a} latents fire on some but not all of "
            f"{counter.n_tokens} tokens; phi takes two. Give more tokens."
        )
    return chosen


@njit(parallel=True, cache=True)
def _chance(counts, multiplicity, group, n_groups, log_factorial, n):  # type: ignore[no-untyped-def]
    """The sum for each count with those not below it, by the group of the other `[c, groups]`."""
    totals = np.zeros((len(counts), n_groups))
    for i in prange(len(counts)):
        a = counts[i]
        for j in range(i, len(counts)):
            b = counts[j]
            pairs = multiplicity[i] * multiplicity[j] * 1.0
            if i == j:
                pairs = multiplicity[i] * (multiplicity[i] - 1) / 2
            m = a * b // n + 1
            if m > min(a, b) or n - a - b + m < 0:
                continue
            log_p = (
                log_factorial[a] - log_factorial[m] - log_factorial[a - m]
                + log_factorial[n - a] - log_factorial[b - m] - log_factorial[n - a - b + m]
                - log_factorial[n] + log_factorial[b] + log_factorial[n - b]
            )  # fmt: skip
            deviation = 2.0 * m * (n - a - b + m) / n * math.exp(log_p)
            scale = math.sqrt(a * 1.0 * (n - a)) * math.sqrt(b * 1.0 * (n - b)) / n
            totals[i, group[j]] += pairs * deviation / scale
    return totals


@njit(parallel=True, cache=True)
def _scan(together, fired, n, chosen, d):  # type: ignore[no-untyped-def]
    """Sum of |phi| over pairs of chosen latents, and the histogram of phi for each thread's rows."""
    n_bins = 2000
    n_parts = 64
    totals = np.zeros(n_parts)
    bins = np.zeros((n_parts, n_bins), dtype=np.int64)
    for part in prange(n_parts):
        for r in range(part, len(chosen), n_parts):
            i = chosen[r]
            a = fired[i] * 1.0
            offset = i * d - i * (i + 1) // 2 - i - 1
            scale_a = math.sqrt(a * (n - a))
            for s in range(r + 1, len(chosen)):
                j = chosen[s]
                b = fired[j] * 1.0
                phi = (n * 1.0 * together[offset + j] - a * b) / (
                    scale_a * math.sqrt(b * (n - b))
                )
                totals[part] += abs(phi)
                place = int((phi + 1.0) * (n_bins / 2))
                bins[part, min(max(place, 0), n_bins - 1)] += 1
    return totals.sum(), bins
