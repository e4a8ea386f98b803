"""The tokens that activate a latent most, in their context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.evaluation.activations import ActivationBatch


@dataclass
class Peak:
    """
    A place where a latent fires.

    Attributes:
        activation: the latent's, at the peak.
        place: of the peak in `tokens`.
        tokens: some before the peak, the peak, and some after it.
        activations: the latent's on each of them.
    """

    activation: float
    place: int
    tokens: list[int]
    activations: list[float]


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
        n_after: int = 0,
    ):
        self.sae = sae
        self.n_top = n_top
        self.n_before = n_before
        self.n_after = n_after
        self.peaks: dict[int, list[Peak]] = {latent: [] for latent in latents}

    def update(self, batch: ActivationBatch) -> None:
        """Adds a batch of tokens and activations."""
        acts = batch.codes(self.sae)
        for latent, peaks in self.peaks.items():
            values = acts[..., latent].cpu()
            top = values.flatten().topk(min(self.n_top, values.numel()))
            for value, place in zip(*(t.tolist() for t in top), strict=True):
                if value > 0:
                    peaks.append(self._peak(batch.tokens, values, place))
            peaks.sort(key=lambda peak: -peak.activation)
            del peaks[self.n_top :]

    def _peak(self, tokens: torch.Tensor, values: torch.Tensor, place: int) -> Peak:
        prompt, position = divmod(place, tokens.shape[1])
        start = max(0, position - self.n_before)
        shown = slice(start, position + 1 + self.n_after)
        return Peak(
            activation=values[prompt, position].item(),
            place=position - start,
            tokens=tokens[prompt, shown].tolist(),
            activations=values[prompt, shown].tolist(),
        )
