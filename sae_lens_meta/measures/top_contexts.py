"""Where latents fire: their strongest contexts, one of each, and a sample of all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.measures.kept_windows import OUTSIDE, KeptWindows


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

    Args:
        sae: whose latents.
        latents: which.
        n_top: strongest contexts of each.
        n_before: tokens before a peak.
        n_after: tokens after it.
        n_sampled: contexts of each that are drawn from all in which it fires.
        seed: of what is drawn.
    """

    def __init__(
        self,
        sae: SAE[Any],
        latents: Sequence[int],
        n_top: int = 5,
        n_before: int = 8,
        n_after: int = 0,
        n_sampled: int = 0,
        seed: int = 0,
    ):
        self.sae = sae
        self.latents = list(latents)
        self._places = {latent: place for place, latent in enumerate(self.latents)}
        self.n_top = n_top
        self.n_before = n_before
        width = n_before + 1 + n_after
        self._from_peak = torch.arange(width) - n_before
        self._random = torch.Generator().manual_seed(seed)
        self._strongest = KeptWindows(len(self.latents), n_top, width)
        self._sampled = KeptWindows(len(self.latents), n_sampled, width)
        self._has_sample = n_sampled > 0

    def update(self, batch: ActivationBatch) -> None:
        """Adds a batch of tokens and activations."""
        self.add(batch.tokens, batch.codes(self.sae))

    def add(self, tokens: torch.Tensor, codes: torch.Tensor) -> None:
        """Adds tokens `[prompts, positions]` and codes `[prompts, positions, d_sae]`."""
        tokens, values = tokens.cpu(), codes[..., self.latents].cpu()
        # of either sign: a latent of an abstopk SAE fires in two directions
        strengths, peaks = values.abs().max(dim=1)
        for prompt, strength in enumerate(strengths):
            places = peaks[prompt]

            def cut(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                around = places[chosen, None] + self._from_peak  # noqa: B023
                inside = (around >= 0) & (around < tokens.shape[1])
                around = around.clamp(0, tokens.shape[1] - 1)
                shown = values[prompt][around, chosen[:, None]]  # noqa: B023
                words = tokens[prompt][around]  # noqa: B023
                return words.where(inside, OUTSIDE), shown.where(inside, 0.0)

            fires = strength > 0
            self._strongest.offer(strength.where(fires, -torch.inf), cut)
            if self._has_sample:
                drawn = torch.rand(len(strength), generator=self._random)
                self._sampled.offer(drawn.where(fires, -torch.inf), cut)

    @property
    def peaks(self) -> dict[int, list[Peak]]:
        """Of each latent, strongest first; fewer than `n_top` where it fires in fewer contexts."""
        return {latent: self.strongest(latent) for latent in self.latents}

    def strongest(self, latent: int) -> list[Peak]:
        """Of one latent, as in `peaks`."""
        return self._peaks(self._strongest, latent)

    def sampled(self, latent: int) -> list[Peak]:
        """Contexts drawn from all in which one latent fires, strongest first."""
        return self._peaks(self._sampled, latent)

    def _peaks(self, kept: KeptWindows, latent: int) -> list[Peak]:
        tokens, activations = kept.of(self._places[latent])
        peaks = map(self._peak, tokens.tolist(), activations.tolist())
        return sorted(peaks, key=lambda peak: -abs(peak.activation))

    def _peak(self, tokens: list[int], activations: list[float]) -> Peak:
        inside = [place for place, token in enumerate(tokens) if token != OUTSIDE]
        return Peak(
            activation=activations[self.n_before],
            place=self.n_before - inside[0],
            tokens=[tokens[place] for place in inside],
            activations=[activations[place] for place in inside],
        )
