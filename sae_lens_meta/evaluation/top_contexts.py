"""The tokens that activate a latent most, in their context."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.evaluation.activations import ActivationBatch


@dataclass(order=True)
class Peak:
    """A latent's activation on the last of `tokens`, which precede and include it."""

    activation: float
    tokens: list[int]


@torch.no_grad()
def top_contexts(
    sae: SAE[Any],
    batches: Iterable[ActivationBatch],
    latents: Sequence[int],
    n_top: int = 5,
    n_before: int = 8,
) -> dict[int, list[Peak]]:
    """
    The `n_top` strongest activations of each latent, strongest first.

    A latent that fires on fewer tokens has fewer. Memory grows with the number of
    latents asked for, not with the tokens read.
    """
    index = torch.tensor(latents, device=sae.device)
    peaks: dict[int, list[Peak]] = {latent: [] for latent in latents}
    for batch in batches:
        acts = sae.encode(batch.activations.to(sae.device))[..., index]
        for column, latent in enumerate(latents):
            values, places = (
                acts[..., column].flatten().topk(min(n_top, acts[..., 0].numel()))
            )
            for value, place in zip(values.tolist(), places.tolist(), strict=True):
                if value > 0:
                    prompt, position = divmod(place, batch.tokens.shape[1])
                    start = max(0, position - n_before)
                    context = batch.tokens[prompt, start : position + 1].tolist()
                    peaks[latent].append(Peak(value, context))
            peaks[latent] = sorted(peaks[latent], reverse=True)[:n_top]
    return peaks
