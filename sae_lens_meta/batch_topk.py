"""Exact selection of the largest pre-activations of a whole batch."""

import math

import torch
from torch import nn

# Enough for a cut within a few percent; looking at them costs next to nothing.
N_SAMPLE = 1 << 16


def select_batch_topk(pre_acts: torch.Tensor, k: float) -> torch.Tensor:
    """
    Flat indices of the `int(k * n_samples)` largest positive values, in no order.

    A sort of all `n_samples * d_sae` values is what makes BatchTopK slow on CPU. Here a
    sample of them gives a cut that leaves a few more values than asked for; those are
    found in one pass, and only they are sorted. The result is exact: every value above the
    cut is a candidate, so the largest are among them whenever there are enough of them.
    Where there are not, the sample was unlucky, and all positive values are sorted.

    Args:
        pre_acts: `[..., d_sae]`, any floating dtype; ties at the cut are broken arbitrarily.
        k: average number of values to keep per sample.

    Returns:
        Indices into `pre_acts.flatten()`, fewer than asked for where fewer are positive.

    Raises:
        ValueError: if a value is NaN or infinite.
    """
    flat = pre_acts.detach().flatten()
    if not torch.isfinite(flat.sum(dtype=torch.float32)):
        raise ValueError(
            "NaN or inf among the pre-activations: the weights have diverged. "
            "Resume from the last checkpoint with a lower learning rate."
        )
    n_keep = int(k * pre_acts.shape[:-1].numel())
    candidates = (flat > _low_cut(flat, n_keep, pre_acts.shape[-1])).nonzero()[:, 0]
    if len(candidates) < n_keep:
        candidates = (flat > 0).nonzero()[:, 0]
    if len(candidates) <= n_keep:
        return candidates
    return candidates[flat[candidates].topk(n_keep, sorted=False).indices]


def _low_cut(flat: torch.Tensor, n_keep: int, d_sae: int) -> torch.Tensor:
    """
    A value, at least 0, that more than `n_keep` of `flat` exceed, very probably.

    The number of the sample's values above the true cut is binomial; six standard
    deviations are allowed for.
    """
    stride = max(1, len(flat) // N_SAMPLE)
    while math.gcd(stride, d_sae) != 1:  # or the sample would hold few latents
        stride += 1
    sample = flat[::stride]
    expected = n_keep / stride
    rank = math.ceil(expected + 6 * math.sqrt(expected) + 6)
    if rank >= len(sample):
        return flat.new_tensor(0.0)
    return sample.topk(rank, sorted=False).values.min().clamp(min=0)


class ExactBatchTopK(nn.Module):
    """SAELens's BatchTopK activation with a fast selection: `[..., d_sae]` to the same."""

    def __init__(self, k: float):
        super().__init__()
        self.k = k

    @torch.compiler.disable()
    def forward(self, pre_acts: torch.Tensor) -> torch.Tensor:
        kept = select_batch_topk(pre_acts, self.k)
        flat = pre_acts.flatten()
        return torch.zeros_like(flat).scatter(0, kept, flat[kept]).view_as(pre_acts)
