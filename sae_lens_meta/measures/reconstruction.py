"""How well an SAE reconstructs activations, and at what sparsity."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens import SAE

from sae_lens_meta.activations.stream import encode, flat_heads

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
    a few tokens of huge norm would decide them otherwise.

    Args:
        sae: any SAE.
        n_blocks: blocks of the stream to keep apart, for a bootstrap over them.

    Attributes:
        sums: what was summed in each block, in float64, by name: `n_tokens`, `n_active`,
            `squared_error` and `squared_norm` `[n_blocks]`, `total` `[n_blocks, d_in]`.
        fired: `[d_sae]`, tokens that each latent fired on.
    """

    def __init__(self, sae: SAE[Any], n_blocks: int = 1):
        self.sae = sae
        names = ("n_tokens", "n_active", "squared_error", "squared_norm")
        self.sums: dict[str, np.ndarray] = {n: np.zeros(n_blocks) for n in names}
        self.sums["total"] = np.zeros((n_blocks, sae.cfg.d_in))
        self.fired = np.zeros(sae.cfg.d_sae, dtype=np.int64)

    @torch.no_grad()
    def update(self, activations: torch.Tensor, block: int = 0) -> torch.Tensor:
        """Adds activations, `[..., d_in]`, to a block; returns the codes `[n, d_sae]`."""
        x = activations.reshape(-1, self.sae.cfg.d_in)
        x = x.to(self.sae.device, torch.float32)
        acts = encode(self.sae, x)
        with flat_heads(self.sae):
            error = self.sae.decode(acts) - x
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True).clamp(min=MIN_STD)
        normalized = ((x - mean) / std).double()
        # not > 0: a latent of an abstopk SAE fires in two directions
        fired = (acts != 0).sum(0).cpu().numpy()
        squared_error = (error / std).double().pow(2).sum().item()
        self.sums["n_tokens"][block] += len(x)
        self.sums["n_active"][block] += fired.sum()
        self.sums["squared_error"][block] += squared_error
        self.sums["squared_norm"][block] += normalized.pow(2).sum().item()
        self.sums["total"][block] += normalized.sum(0).cpu().numpy()
        self.fired += fired
        return acts

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """
        The figures of `Reconstruction` that are means over tokens, for weighted blocks.

        Args:
            weights: `[..., n_blocks]`, how often each block counts.

        Returns:
            `normalized_l2`, `explained_variance` and `l0`, `[...]` each.
        """
        sums = {name: weights @ values for name, values in self.sums.items()}
        n = sums["n_tokens"]
        variance = sums["squared_norm"] / n
        variance = variance - np.square(sums["total"] / n[..., None]).sum(axis=-1)
        return {
            "normalized_l2": sums["squared_error"] / n / self.sae.cfg.d_in,
            "explained_variance": 1 - sums["squared_error"] / n / variance,
            "l0": sums["n_active"] / n,
        }

    @property
    def n_tokens(self) -> int:
        """Tokens added so far."""
        return int(self.sums["n_tokens"].sum())

    def result(self) -> Reconstruction:
        """
        Raises:
            ValueError: if no activation was added.
        """
        if self.n_tokens == 0:
            raise ValueError("No activations to measure on: the stream was empty.")
        figures = self.figures(np.ones(len(self.sums["n_tokens"])))
        return Reconstruction(
            **{name: float(value) for name, value in figures.items()},
            n_silent=int((self.fired == 0).sum()),
            n_tokens=self.n_tokens,
        )
