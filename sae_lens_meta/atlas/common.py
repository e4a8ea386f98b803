"""What the contexts of latents have in common that are made of one meta latent."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from sae_lens_meta.atlas.words import Words

BLOCK_METAS = 64


@dataclass
class Common:
    """
    Words on which the latents of one meta latent fire more than others do, largest difference first.

    Attributes:
        words: `[n]`, by place in the list of words.
        own: `[n]`, the share of this word among all that its latents fire on, each latent weighed
            by the meta latent's share of its row.
        everyones: `[n]`, the same over all latents that fire, all of one weight.
    """

    words: np.ndarray
    own: np.ndarray
    everyones: np.ndarray


def common_words(shares: csr_array, words: Words, n: int) -> list[Common | None]:
    """
    For each meta latent its common words; None where none of its latents fires.

    Args:
        shares: `[d_sae, n_meta]`, of decoder rows; a part that points away from its row counts for
            nothing.
        words: that latents fire on.
        n: words of each.
    """
    (d_sae, n_meta), n_words = _shape(shares), len(words.texts)
    fires = words.fired > 0
    per_latent = csr_array(
        (words.together / words.fired[words.latent], (words.latent, words.word)),
        shape=(d_sae, n_words),
    )
    everyones = np.asarray(per_latent.sum(axis=0)).ravel() / max(fires.sum(), 1)
    weights = csr_array(shares.maximum(0).T)
    weights = csr_array(weights.multiply(fires[None].astype(float)))
    totals = np.asarray(weights.sum(axis=1)).ravel()
    found: list[Common | None] = []
    for first in range(0, n_meta, BLOCK_METAS):
        block = (weights[first : first + BLOCK_METAS] @ per_latent).toarray()
        for own, total in zip(block, totals[first : first + BLOCK_METAS], strict=True):
            found.append(_common(own / total, everyones, n) if total > 0 else None)
    return found


def _common(own: np.ndarray, everyones: np.ndarray, n: int) -> Common:
    more = own - everyones
    order = np.argsort(-more, kind="stable")[:n]
    order = order[more[order] > 0]
    return Common(order, own[order], everyones[order])


def _shape(matrix: csr_array) -> tuple[int, int]:
    shape: Any = matrix.shape  # which scipy's types allow to be of one dimension
    return shape
