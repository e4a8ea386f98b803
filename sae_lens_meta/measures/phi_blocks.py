"""Pair counts block by block of a stream, to resample mean |phi| from."""

import math

import numpy as np
import torch
from numba import njit

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter


class PhiBlocks:
    """
    Pair counts of some latents of one SAE, block by block, to resample mean |phi| from.

    All pairs of a large SAE would not fit once for every block. The pairs of 1,000 latents
    drawn at random vary from block to block at least as much as all pairs do, so that the
    interval is rather too wide than too narrow.

    Args:
        d_sae: number of latents of the SAE.
        n_blocks: blocks of the stream.
        n_latents: latents to draw.
        seed: of the draw.
    """

    def __init__(self, d_sae: int, n_blocks: int, n_latents: int = 1000, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(d_sae, generator=generator)[: min(n_latents, d_sae)]
        self.latents = drawn.sort().values
        self.counters = [CooccurrenceCounter(len(drawn)) for _ in range(n_blocks)]

    def update(self, acts: torch.Tensor, block: int) -> None:
        """Adds codes `[n, d_sae]` to a block."""
        self.counters[block].update(acts[:, self.latents.to(acts.device)])

    def resampled(self, weights: np.ndarray, compared: np.ndarray) -> np.ndarray:
        """
        Mean |phi| over the pairs of the drawn latents that are compared, in each resample.

        Args:
            weights: `[n_resamples, n_blocks]`.
            compared: mask `[d_sae]`.

        Returns:
            `[n_resamples]`; NaN where fewer than two of the latents have a phi.
        """
        kept = compared[self.latents.numpy()].nonzero()[0]
        i, j = np.triu_indices(len(kept), 1)
        together = np.stack([c.pairs(kept[i], kept[j]) for c in self.counters])
        together = together.astype(np.float32)
        fired = np.stack([counter.fired_a[kept] for counter in self.counters])
        n_tokens = np.array([counter.n_tokens for counter in self.counters])
        means = np.empty(len(weights))
        for r, w in enumerate(weights):
            pairs = w.astype(np.float32) @ together
            means[r] = _mean_abs_phi(pairs, i, j, w @ fired, float(w @ n_tokens))
        return means


@njit(cache=True)
def _mean_abs_phi(together, i, j, fired, n):  # type: ignore[no-untyped-def]
    total, n_pairs = 0.0, 0
    for pair in range(len(together)):
        a, b = fired[i[pair]], fired[j[pair]]
        scale = math.sqrt(a * (n - a)) * math.sqrt(b * (n - b))
        if scale > 0:
            total += abs(together[pair] * n - a * b) / scale
            n_pairs += 1
    return total / n_pairs if n_pairs else math.nan
