"""Exact selection of the largest pre-activations of a whole batch."""

import torch
from torch import nn

from sae_lens_meta.training.backend import backend_of


def select_batch_topk(pre_acts: torch.Tensor, k: float) -> torch.Tensor:
    """
    Flat indices of the `int(k * n_samples)` largest positive values, in no order.

    Args:
        pre_acts: `[..., d_sae]`, any floating dtype; ties at the cut are broken arbitrarily.
        k: average number of values to keep per sample.

    Returns:
        Indices into `pre_acts.flatten()`, fewer than asked for where fewer are positive.

    Raises:
        ValueError: if a value is NaN or infinite.
    """
    matrix = pre_acts.detach().reshape(-1, pre_acts.shape[-1])
    backend = backend_of(matrix)
    if not backend.reads_freely and not torch.isfinite(matrix).all():
        raise ValueError("NaN or inf among the pre-activations.")
    kept = backend.select(matrix, int(k * len(matrix)))
    return kept[matrix.flatten()[kept] > 0]


class ExactBatchTopK(nn.Module):
    """SAELens's BatchTopK activation with a fast selection: `[..., d_sae]` to the same."""

    def __init__(self, k: float):
        super().__init__()
        self.k = k

    @torch.compiler.disable()
    def forward(self, pre_acts: torch.Tensor) -> torch.Tensor:
        matrix = pre_acts.detach().reshape(-1, pre_acts.shape[-1])
        kept = backend_of(matrix).select(matrix, int(self.k * len(matrix)))
        flat = pre_acts.flatten()
        kept_acts = flat[kept].relu()
        return torch.zeros_like(flat).scatter(0, kept, kept_acts).view_as(pre_acts)
