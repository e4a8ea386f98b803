"""The tokens that activate a latent most, in their context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.evaluation.activations import ActivationBatch, flat_heads


@dataclass(order=True)
class Peak:
    """A latent's activation on the last of `tokens`, which precede and include it."""

    activation: float
    tokens: list[int]


class TopContexts:
    """
    Keeps the `n_top` strongest activations of each of some latents over a stream.

    Memory grows with the number of latents asked for, not with the tokens read.

    Attributes:
        peaks: of each latent, strongest first; fewer where it fires on fewer tokens.
    """

    def __init__(
        self,
        sae: SAE[Any],
        latents: Sequence[int],
        n_top: int = 5,
        n_before: int = 8,
    ):
        self.sae = sae
        self.n_top = n_top
        self.n_before = n_before
        self.peaks: dict[int, list[Peak]] = {latent: [] for latent in latents}

    @torch.no_grad()
    def update(self, batch: ActivationBatch) -> None:
        """Adds a batch of tokens and activations."""
        with flat_heads(self.sae):
            acts = self.sae.encode(batch.activations.to(self.sae.device))
        for latent, peaks in self.peaks.items():
            values = acts[..., latent].flatten()
            top = values.topk(min(self.n_top, len(values)))
            for value, place in zip(*(t.tolist() for t in top), strict=True):
                if value > 0:
                    peaks.append(Peak(value, self._context(batch.tokens, place)))
            self.peaks[latent] = sorted(peaks, reverse=True)[: self.n_top]

    def _context(self, tokens: torch.Tensor, place: int) -> list[int]:
        prompt, position = divmod(place, tokens.shape[1])
        start = max(0, position - self.n_before)
        return tokens[prompt, start : position + 1].tolist()
