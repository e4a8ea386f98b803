"""How well an SAE reconstructs activations, and at what sparsity."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE


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


@torch.no_grad()
def measure_reconstruction(
    sae: SAE[Any], activations: Iterable[torch.Tensor]
) -> Reconstruction:
    """
    Measures `sae` in one pass over batches of activations, each `[..., d_in]`.

    All figures are taken after normalising every vector, whatever `sae` does inside:
    a few tokens of huge norm would decide them otherwise.
    """
    n_tokens = n_active = 0
    squared_error = squared_norm = 0.0
    total = torch.zeros(sae.cfg.d_in, dtype=torch.float64)
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    for batch in activations:
        x = batch.reshape(-1, sae.cfg.d_in).to(sae.device, torch.float32)
        acts = sae.encode(x)
        recons = sae.decode(acts)
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        normalized = (x - mean) / std
        squared_error += ((recons - x) / std).double().pow(2).sum().item()
        squared_norm += normalized.double().pow(2).sum().item()
        total += normalized.double().sum(0).cpu()
        active = acts > 0
        n_active += int(active.sum())
        fired |= active.any(0).cpu()
        n_tokens += len(x)
    if n_tokens == 0:
        raise ValueError("No activations to measure on: the stream was empty.")
    variance = squared_norm / n_tokens - (total / n_tokens).pow(2).sum().item()
    return Reconstruction(
        normalized_l2=squared_error / n_tokens / sae.cfg.d_in,
        explained_variance=1 - squared_error / n_tokens / variance,
        l0=n_active / n_tokens,
        n_silent=int((~fired).sum()),
        n_tokens=n_tokens,
    )
