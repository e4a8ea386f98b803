"""The tokens that activate a latent most, in their context, one of each context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.activations.stream import ActivationBatch


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
    Keeps the contexts of a stream that activate each of some latents most, at their peaks.

    A context counts once, by its strongest activation: a latent that fires all along one
    passage would fill its list with that. Memory grows with the number of latents asked for, not with the tokens read.

    Attributes:
        peaks: of each latent, strongest first; fewer than `n_top` where it fires in fewer
            contexts.
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
            # of either sign: a latent of an abstopk SAE fires in two directions
            strongest = values.abs().max(dim=1)
            top = strongest.values.topk(min(self.n_top, len(values))).indices
            for prompt in top.tolist():
                if strongest.values[prompt] > 0:
                    position = int(strongest.indices[prompt])
                    peaks.append(self._peak(batch.tokens, values, prompt, position))
            peaks.sort(key=lambda peak: -abs(peak.activation))
            del peaks[self.n_top :]

    def _peak(
        self, tokens: torch.Tensor, values: torch.Tensor, prompt: int, position: int
    ) -> Peak:
        start = max(0, position - self.n_before)
        shown = slice(start, position + 1 + self.n_after)
        return Peak(
            activation=values[prompt, position].item(),
            place=position - start,
            tokens=tokens[prompt, shown].tolist(),
            activations=values[prompt, shown].tolist(),
        )
