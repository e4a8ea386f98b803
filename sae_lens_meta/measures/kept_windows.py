"""The windows of text that are kept of each latent, out of a stream of any length."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")
OUTSIDE = -1  # in the place of a token, where a window reaches out of its context
Cut = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class KeptWindows:
    """
    Keeps of each latent the windows of highest rank; memory does not grow with what is offered.

    With the strength of a window for its rank, these are the strongest; with a random number, they
    are a uniform sample.

    Args:
        n_latents: latents.
        n_kept: windows of each.
        width: tokens of a window.
    """

    def __init__(self, n_latents: int, n_kept: int, width: int):
        self._ranks = torch.full((n_latents, n_kept), -torch.inf)
        self._tokens = torch.full((n_latents, n_kept, width), OUTSIDE, dtype=torch.int)
        self._activations = torch.zeros(n_latents, n_kept, width)

    def offer(self, ranks: torch.Tensor, cut: Cut) -> None:
        """
        Takes one window for each latent whose rank is above the lowest kept.

        Args:
            ranks: `[n_latents]`; minus infinity where a latent has none to offer.
            cut: gives the windows of some latents, `[m]`: their tokens and the latents'
                activations on them, each `[m, width]`.
        """
        lowest, places = self._ranks.min(dim=1)
        latents = (ranks > lowest).nonzero().flatten()
        if len(latents) == 0:
            return
        tokens, activations = cut(latents)
        places = places[latents]
        self._ranks[latents, places] = ranks[latents].float()
        self._tokens[latents, places] = tokens.int()
        self._activations[latents, places] = activations

    def of(self, latent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and activations of one latent's windows, `[n, width]`, highest rank first."""
        ranks = self._ranks[latent]
        order = ranks.argsort(descending=True, stable=True)[
            : (ranks > -torch.inf).sum()
        ]
        return self._tokens[latent, order], self._activations[latent, order]


def one_of_each_range(windows: list[T], n: int, random: np.random.Generator) -> list[T]:
    """`n` of them, one drawn from each `n`-th part of the order they are in."""
    edges = np.linspace(0, len(windows), n + 1).astype(int)
    return [
        windows[random.integers(low, high)]
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
