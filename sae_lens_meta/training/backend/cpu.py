"""A pass on a processor: block by block, and only what is above the cut so far."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from sae_lens_meta.training.backend.interface import Encoder, Rows, Selected, Sums

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
        self._dtype = like.dtype
        self._flat = np.empty(0, np.int64)
        self._values = _in_numpy(like.new_empty(0))
        self._cut = 0.0

    @property
    def flat(self) -> torch.Tensor:
        return torch.from_numpy(self._flat)

    @property
    def values(self) -> torch.Tensor:
        return torch.from_numpy(self._values).to(self._dtype)

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
        # here, since whoever only loads SAEs need not wait for numba
        from sae_lens_meta.training.backend.above import above

        seen = _in_numpy(block)
        found, values = above(seen, seen.dtype.type(self._cut), offset, stride)
        self._flat = np.concatenate((self._flat, found))
        self._values = np.concatenate((self._values, values))
        n_lost = len(self._values) - self.n_keep
        if n_lost > 0:
            kept = np.argpartition(self._values, n_lost - 1)[n_lost:]
            self._flat, self._values = self._flat[kept], self._values[kept]
            self._cut = float(self._values.min(initial=np.inf))


def _in_numpy(block: torch.Tensor) -> np.ndarray:
    """The same values; numpy has no bfloat16, which float32 holds exactly."""
    as_it_is = block.dtype in (torch.float32, torch.float64)
    return block.detach().to(block.dtype if as_it_is else torch.float32).numpy()


def blocks(n_rows: int, n_columns: int) -> Iterator[tuple[slice, slice]]:
    """Cuts a matrix along its longer side into blocks of about `BLOCK` values."""
    if n_rows > n_columns:
        for columns, rows in blocks(n_columns, n_rows):
            yield rows, columns
    else:
        width = max(1, BLOCK // max(n_rows, 1))
        for first in range(0, n_columns, width):
            yield slice(0, n_rows), slice(first, min(first + width, n_columns))


class CPUBackend:
    """Implements `Backend`; values that are not finite are refused where they are seen."""

    max_active_share = 1 / 8  # benchmarks/crossover.py
    piece = 1024
    reads_freely = True

    def select(self, matrix: torch.Tensor, n_keep: int) -> torch.Tensor:
        n_samples, d_sae = matrix.shape
        top = RunningTopK(n_keep, matrix)
        for rows, columns in blocks(n_samples, d_sae):
            top.add(matrix[rows, columns], rows.start * d_sae + columns.start, d_sae)
        return top.flat

    def largest(
        self,
        x: Rows,
        encoder: Encoder,
        n_keep: int,
        dead: torch.Tensor,
        n_near: int = 0,
        spare: float = 2,  # noqa: ARG002
    ) -> tuple[Selected, torch.Tensor]:
        """The pre-activations are made block by block and never exist as a whole."""
        d_sae, W_enc = encoder.d_sae, encoder.W_enc
        top = RunningTopK(n_keep + n_near, W_enc)
        dead_acts = W_enc.new_empty(len(x), len(dead))
        for rows, columns in blocks(len(x), d_sae):
            block = torch.addmm(encoder.b_enc[columns], x[rows], W_enc[:, columns])
            block = block.to(W_enc.dtype)  # autocast's is another
            block *= encoder.norms[columns]
            top.add(block, rows.start * d_sae + columns.start, d_sae)
            here = (dead >= columns.start) & (dead < columns.stop)
            if here.any():
                dead_acts[rows, here] = block[:, dead[here] - columns.start]
        if n_near == 0:
            return Selected(top.flat, top.values), dead_acts
        acts, kept = top.values.topk(min(n_keep, len(top.values)), sorted=False)
        near = top.flat.sort().values
        return Selected(top.flat[kept], acts, near), dead_acts

    def among(
        self, near: torch.Tensor, x: torch.Tensor, encoder: Encoder, n_keep: int
    ) -> Selected:
        acts = encoder.acts_at(near, x)
        acts, kept = acts.topk(min(n_keep, len(acts)), sorted=False)
        positive = acts > 0
        return Selected(near[kept[positive]], acts[positive])

    def weighted_sums(self, sums: Sums, rows: torch.Tensor) -> torch.Tensor:
        return embedding_bag(
            sums.indices,
            rows,
            sums.starts,
            mode="sum",
            per_sample_weights=sums.weights,
            include_last_offset=True,
        )

    def sums_in_columns(self, sums: Sums, rows: torch.Tensor) -> torch.Tensor:
        n_groups = len(sums.starts) - 1
        columns = rows.new_empty(rows.shape[1], n_groups)
        for first in range(0, n_groups, self.piece):
            ends = sums.starts[first : first + self.piece + 1]
            part = slice(int(ends[0]), int(ends[-1]))
            piece = Sums(sums.weights[part], sums.indices[part], ends - ends[0])
            sums_of_piece = self.weighted_sums(piece, rows)
            columns[:, first : first + self.piece] = sums_of_piece.t()
        return columns


CPU = CPUBackend()
