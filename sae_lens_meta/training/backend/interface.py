"""What a pass over active latents asks of a backend, and what both of them use."""

import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import NamedTuple, Protocol

import torch

from sae_lens_meta.sparse import without_advice


class Rows(Protocol):
    """A matrix `[n, d_in]`, or what makes its rows when they are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> torch.Tensor: ...


@dataclass
class Encoder:
    """
    An encoder, and the factors that make activations of its pre-activations.

    Attributes:
        W_enc: `[d_in, d_sae]`.
        b_enc: `[d_sae]`.
        norms: factors of the latents, `[d_sae]`.
    """

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    norms: torch.Tensor

    @property
    def d_sae(self) -> int:
        return len(self.b_enc)

    @cached_property
    def rows(self) -> torch.Tensor:
        """The encoder's directions times their factors, a row each: `[d_sae, d_in]`."""
        rows = self.W_enc.new_empty(self.W_enc.shape[::-1])
        return torch.mul(self.W_enc.t(), self.norms[:, None], out=rows)

    @cached_property
    def biases(self) -> torch.Tensor:
        """`b_enc` times the factors, `[d_sae]`."""
        return self.b_enc * self.norms

    def acts_at(self, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Activations of `x` at ascending flat indices, `[len(flat)]`, of whatever sign."""
        return products_at(flat, x, self.rows) + self.biases[flat % self.d_sae]

    def acts_of(self, latents: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Activations `[n, n_latents]` of some latents on all of `x`, `[n, d_in]`."""
        return torch.addmm(self.biases[latents], x, self.rows[latents].t())


class Selected(NamedTuple):
    """
    The largest activations of a batch.

    Attributes:
        flat: their distinct indices into the flattened activations `[n, d_sae]`, in no order.
        acts: the activations, none below 0.
        near: ascending indices of these and of the next largest, if they were asked for.
        in_doubt: whether one that was left out might be larger than one that was kept, a bool
            `[]` on the device; None where that cannot be.
    """

    flat: torch.Tensor
    acts: torch.Tensor
    near: torch.Tensor | None = None
    in_doubt: torch.Tensor | None = None


class Sums(NamedTuple):
    """
    What each of several groups sums up: rows of a matrix, weighted.

    Attributes:
        weights: `[n]`, group by group.
        indices: which row each weighs, `[n]`.
        starts: where the entries of each group begin, and the last one's end, `[n_groups + 1]`.
    """

    weights: torch.Tensor
    indices: torch.Tensor
    starts: torch.Tensor


class Backend(Protocol):
    """
    Attributes:
        max_active_share: above this share of active codes a dense pass is faster.
        piece: rows of a matrix as large as a decoder that are best handled together.
        reads_freely: whether a look at a value costs nothing.
    """

    max_active_share: float
    piece: int
    reads_freely: bool

    def select(self, matrix: torch.Tensor, n_keep: int) -> torch.Tensor:
        """
        Flat indices of the `n_keep` largest values of `matrix`, in no order.

        Those that are not positive may be missing.
        """
        ...

    def largest(
        self,
        x: Rows,
        encoder: Encoder,
        n_keep: int,
        dead: torch.Tensor,
        n_near: int = 0,
        spare: float = 2,
    ) -> tuple[Selected, torch.Tensor]:
        """
        The `n_keep` largest activations of `x`, and all those of the latents `dead`.

        Args:
            x: normalised and without `b_dec`, `[n, d_in]`.
            encoder: of `d_sae` latents.
            n_keep: exactly as many are kept, but for those that are not positive.
            dead: indices, `[n_dead]`.
            n_near: how many more to name in `near`, at most `n_keep`.
            spare: how many to compute exactly for each that is kept, where most are only
                estimated: 1.2 to 1.7 are enough at GPT-2 large's and Gemma's shapes.

        Returns:
            The largest, and `[n, n_dead]`.
        """
        ...

    def among(
        self, near: torch.Tensor, x: torch.Tensor, encoder: Encoder, n_keep: int
    ) -> Selected:
        """The `n_keep` largest of the activations at `near`, ascending flat indices."""
        ...

    def weighted_sums(self, sums: Sums, rows: torch.Tensor) -> torch.Tensor:
        """The sums over `rows`, `[n_groups, d]`."""
        ...

    def sums_in_columns(self, sums: Sums, rows: torch.Tensor) -> torch.Tensor:
        """The transpose of `weighted_sums`, `[d, n_groups]`."""
        ...


def starts_of(groups: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Where each of `n_groups` begins in ascending `groups`, and where the last one ends."""
    edges = torch.arange(n_groups + 1, device=groups.device)
    return torch.searchsorted(groups, edges)


def sampled_products(
    starts: torch.Tensor, latents: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """
    `[n_active]`: `left[i] . right[j]` for the active pairs (i, j) alone.

    Args:
        starts: where the pairs of each i begin, `[n + 1]`.
        latents: their j, `[n_active]`.
        left, right: `[n, d]` and `[d_sae, d]`.
    """
    if kernels := kernels_for(left):
        return kernels.sampled_products(starts, latents, left, right)
    nothing = Sums(left.new_zeros(len(latents)), latents, starts)
    pattern = csr(nothing, len(right))
    return torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0).values()


def kernels_for(matrix: torch.Tensor) -> ModuleType | None:
    """
    The module `by_row` where its kernels can take `matrix`, which no gradient flows through.

    On a GPU, in float32 or float64, and narrow enough.
    """
    if not matrix.is_cuda or matrix.itemsize < 4:
        return None
    if torch.is_grad_enabled() and matrix.requires_grad:
        return None
    kernels = _kernels(matrix.device)
    return kernels if kernels and matrix.shape[1] <= kernels.WIDEST else None


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    """The module `by_row` if it runs on `device`: Triton may be missing, or what it compiles with."""
    try:
        from sae_lens_meta.training.backend import by_row

        by_row.sums_of_two(*torch.ones(4, 1, 1, device=device))
    # errors are of many kinds: no compiler, no headers, no folder to write to
    except Exception as error:
        warnings.warn(
            f"Triton's kernels do not run on {device}: {type(error).__name__}: {error}. Steps are "
            "slower by some 5 % without them. They need Triton and a C compiler.",
            stacklevel=2,
        )
        return None
    return by_row


def products_at(
    flat: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """The same for ascending indices `flat` into the flattened products `[n, d_sae]`."""
    starts = starts_of(flat // len(right), len(left))
    return sampled_products(starts, flat % len(right), left, right)


def norms_and_products(
    left: torch.Tensor, right: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Norms of the rows of two matrices `[n, d]`, and the product of each two of them, `[n]` each."""
    if kernels := kernels_for(left):
        return kernels.norms_and_products(left, right)
    products = torch.einsum("ij,ij->i", left, right)
    return left.norm(dim=-1), right.norm(dim=-1), products


def sums_of_two(
    left: torch.Tensor, a: torch.Tensor, right: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """`a_i left_i + b_i right_i`, `[n, d]`."""
    if kernels := kernels_for(left):
        return kernels.sums_of_two(left, a, right, b)
    return (left * a[:, None]).addcmul_(right, b[:, None])


def csr(sums: Sums, n_rows: int) -> torch.Tensor:
    """The matrix `[n_groups, n_rows]` whose product with the rows is their sums."""
    with without_advice():
        return torch.sparse_csr_tensor(
            sums.starts,
            sums.indices,
            sums.weights,
            (len(sums.starts) - 1, n_rows),
            check_invariants=False,
        )
