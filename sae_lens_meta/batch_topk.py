"""Exact selection of the largest pre-activations of a whole batch, block by block."""

from collections.abc import Iterator

import torch
from torch import nn

# Values looked at together: few enough to stay in the cache, many enough for a fast product.
BLOCK = 1 << 22


class RunningTopK:
    """
    The `n_keep` largest positive values of a matrix that is seen block by block.

    A sort of all `n_samples * d_sae` values is what makes BatchTopK slow on CPU. Here the
    largest values so far are kept, and the smallest of them is the cut: a later value that
    does not exceed it has `n_keep` larger or equal ones before it and cannot be among the
    largest. A few times `n_keep` values are sorted in all, and the matrix need never exist
    as a whole. The result is exact, ties at the cut being broken arbitrarily.

    Attributes:
        flat: indices of the kept values into the flattened matrix, in no order.
        values: the kept values, fewer than `n_keep` where fewer are positive.
    """

    def __init__(self, n_keep: int, like: torch.Tensor):
        self.n_keep = n_keep
        self.flat = like.new_empty(0, dtype=torch.long)
        self.values = like.new_empty(0)
        self._cut = 0.0

    def add(self, block: torch.Tensor, offset: int, stride: int) -> None:
        """
        Args:
            block: `[rows, columns]`, of any floating dtype.
            offset: index of its first value in the flattened matrix.
            stride: number of columns of the matrix.

        Raises:
            ValueError: if a value is NaN or infinite.
        """
        if not torch.isfinite(block.sum(dtype=torch.float32)):
            raise ValueError(
                "NaN or inf among the pre-activations: the weights have diverged. "
                "Resume from the last checkpoint with a lower learning rate."
            )
        if self._cut == 0 and block.numel() > 8 * self.n_keep and len(block) > 3:
            first = len(block) // 4  # gives a cut for the rest
            self._add(block[:first], offset, stride)
            block, offset = block[first:], offset + first * stride
        self._add(block, offset, stride)

    def _add(self, block: torch.Tensor, offset: int, stride: int) -> None:
        rows, columns = (block > self._cut).nonzero().unbind(1)
        self.flat = torch.cat([self.flat, offset + rows * stride + columns])
        self.values = torch.cat([self.values, block[rows, columns]])
        if len(self.values) > self.n_keep:
            self.values, kept = self.values.topk(self.n_keep, sorted=False)
            self.flat = self.flat[kept]
            self._cut = float(self.values.min()) if self.n_keep > 0 else float("inf")


def blocks(n_rows: int, n_columns: int) -> Iterator[tuple[slice, slice]]:
    """Cuts a matrix along its longer side into blocks of about `BLOCK` values."""
    if n_rows > n_columns:
        for columns, rows in blocks(n_columns, n_rows):
            yield rows, columns
    else:
        width = max(1, BLOCK // max(n_rows, 1))
        for first in range(0, n_columns, width):
            yield slice(0, n_rows), slice(first, min(first + width, n_columns))


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
    n_samples, d_sae = matrix.shape
    top = RunningTopK(int(k * n_samples), matrix)
    for rows, columns in blocks(n_samples, d_sae):
        top.add(matrix[rows, columns], rows.start * d_sae + columns.start, d_sae)
    return top.flat


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
