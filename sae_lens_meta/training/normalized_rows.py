"""Unit decoder rows as a meta SAE sees them, made where they are read."""

import torch

from sae_lens_meta.training.backend import backend_of
from sae_lens_meta.training.penalty import unit_rows

LAYER_NORM_EPS = 1e-5  # SAELens's


class NormalizedRows:
    """
    Unit decoder rows as a meta SAE sees them, made where they are read.

    A copy of a decoder is large, and slow to write. `rows[part]` gives `[n, d_in]`,
    normalised if `layer_norm`, minus `shift`; `restore` undoes the normalisation.
    """

    def __init__(self, W_dec: torch.Tensor, layer_norm: bool, shift: torch.Tensor):
        self.W_dec = W_dec
        self.layer_norm = layer_norm
        self.shift = shift
        self.mean = W_dec.new_zeros(len(W_dec), 1)
        self.std = W_dec.new_ones(len(W_dec), 1)

    def __len__(self) -> int:
        return len(self.W_dec)

    def __getitem__(self, part: slice) -> torch.Tensor:
        rows = unit_rows(self.W_dec[part])
        if self.layer_norm:
            self.mean[part] = rows.mean(dim=-1, keepdim=True)
            rows -= self.mean[part]
            n_free = rows.shape[-1] - 1
            self.std[part] = rows.norm(dim=-1, keepdim=True) / n_free**0.5
            rows /= self.std[part] + LAYER_NORM_EPS
        return rows.sub_(self.shift)

    def copy(self) -> torch.Tensor:
        """All of them, `[n_rows, d_in]`."""
        piece = backend_of(self.W_dec).piece
        if len(self) <= piece:
            return self[slice(None)]
        rows = torch.empty_like(self.W_dec)
        for first in range(0, len(rows), piece):
            part = slice(first, first + piece)
            rows[part] = self[part]
        return rows

    def restore(self, recons: torch.Tensor) -> torch.Tensor:
        """Reconstructions of the rows read, in place: from the normalised space back."""
        return recons.mul_(self.std).add_(self.mean)
