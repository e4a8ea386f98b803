"""Whether a dictionary of meta latents comes back with another seed."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Stability:
    """
    How the meta latents of one fit are found again in another.

    Attributes:
        cosine: `[n_meta]` float32, of each meta latent to the one that is matched to it, one to
            one, in the dictionary of another seed; NaN where it has no partner.
        null: `[n_meta]` float32, the same to as many random directions of the covariance of the
            decoder rows.
        seed: of that other fit.
    """

    cosine: torch.Tensor
    null: torch.Tensor
    seed: int
