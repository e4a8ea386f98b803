"""Which meta latents are dead in the steps of a meta phase, from one look at the device."""

import torch

from sae_lens_meta.training.backend import backend_of
from sae_lens_meta.training.normalized_batchtopk import DeadLatents

# A meta latent is dead after this many meta steps without firing: the author's window. He counts
# the step at hand, we those behind it, as SAELens does for the primary.
DEAD_AFTER_STEPS = 5


def by_silence(
    steps_since_fired: torch.Tensor, n_steps: int
) -> tuple[torch.Tensor, list[int]]:
    """
    Latents by how long they have been silent, and how many of the first can be dead by then.

    A latent that is dead before a step was silent for so many steps fewer before the
    first: one look at the device tells the sizes for all of `n_steps`. On a GPU these
    are powers of two, or all, so that few graphs are recorded: some of them are not dead.
    """
    silent, order = steps_since_fired.sort(descending=True, stable=True)
    ahead = torch.arange(n_steps, device=silent.device)[:, None]
    counts = (silent + ahead >= DEAD_AFTER_STEPS).sum(dim=1)
    sizes: list[int] = counts.tolist()
    if not backend_of(silent).reads_freely:
        sizes = [
            min(1 << (size - 1).bit_length(), len(order)) * (size > 0) for size in sizes
        ]
    return order, sizes


def dead_among(
    might_be_dead: torch.Tensor, steps_since_fired: torch.Tensor
) -> DeadLatents | None:
    """Those of the latents `might_be_dead`, `[n]`, that are; None where none can be."""
    if not len(might_be_dead):
        return None
    is_dead = steps_since_fired[might_be_dead] >= DEAD_AFTER_STEPS
    if not backend_of(steps_since_fired).reads_freely:
        return DeadLatents(might_be_dead, is_dead)
    dead = might_be_dead[is_dead].sort().values
    return DeadLatents(dead) if len(dead) else None
