"""Unit decoder rows as a meta SAE sees them, made where they are read."""

import torch

from sae_lens_meta.training.backend import backend_of, kernels_for

LAYER_NORM_EPS = 1e-5  # SAELens's


def moments(
    sums: torch.Tensor, d_in: int, layer_norm: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation that a normalisation takes off unit rows of width `d_in` with these sums."""
    if not layer_norm:
        return torch.zeros_like(sums), torch.ones_like(sums)
    mean = sums / d_in
    return mean, ((1 - d_in * mean.square()) / (d_in - 1)).sqrt()


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
        W_dec = self.W_dec[part]
        if kernels := kernels_for(W_dec):
            eps = LAYER_NORM_EPS if self.layer_norm else None
            rows, self.mean[part], self.std[part] = kernels.normalized_rows(
                W_dec, self.shift, eps
            )
            return rows
        norms = W_dec.norm(dim=1, keepdim=True)
        sums = W_dec.sum(dim=1, keepdim=True) / norms
        mean, std = moments(sums, W_dec.shape[1], self.layer_norm)
        self.mean[part], self.std[part] = mean, std
        divisor = std + LAYER_NORM_EPS * self.layer_norm
        # in two passes: a GPU reads and writes a decoder in the time of a product with it
        rows = torch.addcmul(-self.shift, W_dec, 1 / (norms * divisor))
        return rows.sub_(mean / divisor) if self.layer_norm else rows

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
