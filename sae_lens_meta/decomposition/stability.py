"""Whether a dictionary of meta latents comes back with another seed."""

from dataclasses import dataclass

import numpy as np
import torch

from sae_lens_meta.measures.matching import match_latents

NULL_QUANTILE = 0.95


@dataclass(frozen=True)
class Stability:
    """
    How the meta latents of one fit are found again in another.

    Attributes:
        cosine: `[n_meta]` float32, of each meta latent to the one that is matched to it, one to
            one, in the dictionary fitted to the same rows with another seed.
        null: `[n_meta]` float32, the same to a dictionary fitted to rows of random direction with
            the covariance of the SAE's: what two dictionaries of one space share that have no
            part in common.
        explained_variance: of the rows, by the dictionary of the other seed.
        seed: that other one.
    """

    cosine: torch.Tensor
    null: torch.Tensor
    explained_variance: float
    seed: int

    @property
    def comes_back(self) -> torch.Tensor:
        """Mask `[n_meta]`: matched more closely than 95 % of the null's pairs are."""
        return self.cosine > self.null.quantile(NULL_QUANTILE)


def matched_cosines(directions: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """
    Cosine `[n_meta]` of each row of `directions` to its partner among `others`, both `[n_meta, d_in]`.

    The pairs are one to one and make the sum of cosines large (`match_latents`).
    """
    cosine = match_latents(directions, others).cosine
    return torch.from_numpy(np.nan_to_num(cosine, nan=0.0))
