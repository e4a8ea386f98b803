"""How well an SAE reconstructs activations, and at what sparsity."""

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.evaluation.activations import flat_heads

# a constant vector has no scale to be brought to: SAELens's epsilon
MIN_STD = 1e-5


@dataclass
class Reconstruction:
    """
    Attributes:
        normalized_l2: squared error per dimension where every activation vector is brought
            to mean 0 and std 1 (the paper's L2).
        explained_variance: share of the variance of those normalised vectors explained.
        l0: mean number of latents that fire on a token.
        n_silent: latents that fired on none of the tokens.
        n_tokens: tokens measured.
    """

    normalized_l2: float
    explained_variance: float
    l0: float
    n_silent: int
    n_tokens: int


class ReconstructionMeter:
    """
    Measures an SAE over a stream of activations.

    All figures are taken after normalising every vector, whatever the SAE does inside:
    a few tokens of huge norm would decide them otherwise. Sums are kept in float64.
    """

    def __init__(self, sae: SAE[Any]):
        self.sae = sae
        self._n_tokens = self._n_active = 0
        self._squared_error = self._squared_norm = 0.0
        self._sum = torch.zeros(sae.cfg.d_in, dtype=torch.float64)
        self._fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)

    @torch.no_grad()
    def update(self, activations: torch.Tensor) -> torch.Tensor:
        """Adds a batch of activations, `[..., d_in]`; returns the codes `[n, d_sae]`."""
        x = activations.reshape(-1, self.sae.cfg.d_in)
        x = x.to(self.sae.device, torch.float32)
        with flat_heads(self.sae):
            acts = self.sae.encode(x)
            error = self.sae.decode(acts) - x
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True).clamp(min=MIN_STD)
        normalized = ((x - mean) / std).double()
        self._squared_error += (error / std).double().pow(2).sum().item()
        self._squared_norm += normalized.pow(2).sum().item()
        self._sum += normalized.sum(0).cpu()
        self._n_active += int((acts > 0).sum())
        self._fired |= (acts > 0).any(0).cpu()
        self._n_tokens += len(x)
        return acts

    def result(self) -> Reconstruction:
        """
        Raises:
            ValueError: if no activation was added.
        """
        n = self._n_tokens
        if n == 0:
            raise ValueError("No activations to measure on: the stream was empty.")
        variance = self._squared_norm / n - (self._sum / n).pow(2).sum().item()
        return Reconstruction(
            normalized_l2=self._squared_error / n / self.sae.cfg.d_in,
            explained_variance=1 - self._squared_error / n / variance,
            l0=self._n_active / n,
            n_silent=int((~self._fired).sum()),
            n_tokens=n,
        )
