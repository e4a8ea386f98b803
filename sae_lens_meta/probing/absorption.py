"""
Absorption: where a label holds, its latent is silent, and another latent says it in its place.

After Chanin et al., "A is for Absorption" (arXiv:2409.14507), in the form without ablations of
SAEBench (arXiv:2503.09532), whose constants these are. Of the tokens on which the label holds and
the dense probe says so, one is absorbed where every main latent of the label is silent, and the
latent that adds most along the probe's direction has a decoder row of cosine 0.025 or more with it
and adds at least 0.4 of the token's own projection. Main latents are those of the k-sparse probe,
as long as each step raises F1 by more than 0.03: a latent that takes so much counts as a split,
not as absorbing. `fraction` is SAEBench's absorption fraction, which counts partial absorption by
up to three latents of cosine 0.1 and more.

What differs: tokens stand in running text, not in prompts that ask for the spelling, and any token
may be one on which the label does not hold, not only words. Activations have mean 0 and std 1
before the probe, and a projection is counted from their mean, not from 0. Main latents come from a
matching pursuit, not from an L1 probe, and are those that speak for the label, by their F1 on the
first part.

Beside that, with the first of the main latents alone as the label's, and so with splits counted:
whether the latent in its place is a child's. It is if, of the label's tokens in the first part on
which it fires, the share that are of one child label, or one same token, lies at least halfway
from that child's share of all the label's tokens to 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from sae_lens_meta.probing.sparse_probe import SparseProbe

F1_STEP = 0.03
MAX_MAIN = 10
MIN_COSINE = 0.025
MIN_COSINE_OF_PART = 0.1
MIN_SHARE = 0.4
N_PARTS = 3
MIN_FIRED = 5  # tokens that a latent must fire on to be a child's
NONE = -1


@dataclass
class Absorbed:
    """
    What latents do on tokens that a label holds on.

    Attributes:
        silent: whether every main latent is, `[n]`.
        absorber: the latent that says the label in their place, or -1, `[n]`.
        fraction: absorption fraction, `[n]`.
    """

    silent: np.ndarray
    absorber: np.ndarray
    fraction: np.ndarray


def main_latents(
    probes: Mapping[int, SparseProbe], f1: Mapping[int, float]
) -> list[int]:
    """
    The latents that stand for a label; none where one that speaks against it is the best.

    Args:
        probes: k-sparse ones, by k.
        f1: of each, where they were fitted.
    """
    first, *more = [k for k in probes if k <= MAX_MAIN]
    last = first
    for k in more:
        if f1[k] <= f1[last] + F1_STEP:
            break
        last = k
    chosen = probes[last]
    return [int(i) for i in chosen.latents[chosen.for_it]]


def absorbed(
    codes: csr_matrix,
    scale: np.ndarray,
    projection: np.ndarray,
    effects: np.ndarray,
    cosines: np.ndarray,
    main: list[int],
) -> Absorbed:
    """
    What latents do on tokens that a label holds on.

    Args:
        codes: of these tokens, `[n, d_sae]`.
        scale: what a code of 1 adds, in lengths of its decoder row, `[n]`.
        projection: of the tokens on the probe's direction, `[n]`.
        effects: of the decoder rows, likewise, `[d_sae]`.
        cosines: of the decoder rows with the direction, `[d_sae]`.
        main: latents that stand for the label, at least one.
    """
    n = len(projection)
    found = Absorbed(np.zeros(n, bool), np.full(n, NONE), np.zeros(n))
    is_main = np.zeros(len(effects), bool)
    is_main[main] = True
    for i in range(n):
        at = slice(codes.indptr[i], codes.indptr[i + 1])
        fires = codes.data[at] != 0
        latents = codes.indices[at][fires]
        added = codes.data[at][fires] * effects[latents] * scale[i]
        mine = is_main[latents]
        found.silent[i] = not mine.any()
        if projection[i] <= 0 or len(latents) == 0:
            continue
        top = np.argmax(added)
        enough = added[top] >= MIN_SHARE * projection[i]
        if not mine.any() and enough and cosines[latents[top]] >= MIN_COSINE:
            found.absorber[i] = latents[top]
        parts = added[~mine & (added > 0) & (cosines[latents] >= MIN_COSINE_OF_PART)]
        others = np.sort(parts)[-N_PARTS:].sum()
        found.fraction[i] = _fraction(projection[i], added[mine].sum(), others)
    return found


def _fraction(whole: float, by_main: float, by_others: float) -> float:
    if by_main >= whole or by_others < MIN_SHARE * whole:
        return 0.0
    if by_main <= 0:
        return 1.0
    taken = min(by_others, whole - by_main)
    return taken / (taken + by_main)


def child_of(
    latent: int, codes: csc_matrix, kinds: Mapping[str, np.ndarray]
) -> str | None:
    """
    The child that a latent is specific to, the one nearest to being all of it; None if to none.

    Args:
        latent: which.
        codes: of tokens that the parent holds on, `[n, d_sae]`.
        kinds: whether each child holds on these tokens, `[n]`, by its name.
    """
    at = slice(codes.indptr[latent], codes.indptr[latent + 1])
    fires = codes.indices[at][codes.data[at] != 0]
    if len(fires) < MIN_FIRED:
        return None
    best, name = 0.5, None
    for child, holds in kinds.items():
        base, share = holds.mean(), holds[fires].mean()
        gain = (share - base) / (1 - base) if base < 1 else 0.0
        if gain >= best:
            best, name = gain, child
    return name
