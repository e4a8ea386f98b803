"""
A pass on a GPU: fixed shapes, no read of the device, and the one product on tensor cores.

Tensor cores multiply matrices in half precision, with 10 bits of mantissa as in TF32, at twice
the rate of that and some twelve times float32's, and what is then searched takes half the bytes.
The largest activations are therefore searched in two steps: a product in half precision gives
each pair (i, j) a bound that its float32 activation cannot exceed, and the `n_looked_at` pairs
of the largest bounds are computed again in float32, where the `n_keep` largest are taken. What
was left out cannot be among them if the smallest that is kept is no smaller than the smallest
bound looked at; `Selected.in_doubt` says where it is, and the SAE then looks at twice as many.

With `x` and the encoder's directions `w` scaled to norms of at most 1, the bound is

    U_ij = x_i . w_j + b_j + (3 u + s) |x_i| |w_j| + (u + s) |b_j| + (2 sqrt(d) + 3) 2^-25

where u = 2^-11 is what half precision rounds each factor and U itself by, relative to itself
or, for the smallest, by 2^-25, and s = d 2^-23 what rounds a float32 sum of d = `d_in` terms. It
is linear in what is known of i, so it comes out of the product itself: of `[x_i, |x_i|, 1, 1]` and
`[w_j, error |w_j|, high_j, low_j]`, the last two a number in two halves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from sae_lens_meta.training.backend.cpu import CPU
from sae_lens_meta.training.backend.interface import Encoder, Rows, Selected, Sums, csr

# Activations `[rows, d_sae]` that exist at once: 0.13 GB, a product that fills a GPU.
CHUNK = 1 << 26
UNIT, LEAST = (
    2**-11,
    2**-25,
)  # what rounding to half precision takes, of a value and of 0
TINY = 1e-15  # a scale above 0, where all is 0
ALIGNED = 8  # columns that tensor cores take together


class Bounded(NamedTuple):
    """
    Two matrices whose product bounds the activations from above, in units of `scale`.

    Attributes:
        left: `[n, width]`.
        right: `[d_sae, width]`.
        scale: `[]`, in float32.
    """

    left: torch.Tensor
    right: torch.Tensor
    scale: torch.Tensor


def width_of(d_in: int) -> int:
    """Columns of the two matrices of `bounded`."""
    return -(d_in + 3) // ALIGNED * -ALIGNED


def bounded(x: torch.Tensor, encoder: Encoder) -> Bounded:
    """
    What `U_ij` is multiplied of, for `x` `[n, d_in]`: in half precision, or in the dtype of `x`
    and without an error where that is not float32.
    """
    d_in, is_float32 = x.shape[1], x.dtype == torch.float32
    dtype = torch.float16 if is_float32 else x.dtype
    # one hundredth more than is proven: the sizes of the errors are rounded too
    more = 1.01 * is_float32
    sum_error = d_in * 2**-23
    x_norms, row_norms = x.norm(dim=1), encoder.rows.norm(dim=1)
    x_scale = x_norms.max().clamp(min=TINY)
    # a bias larger than every product is not to overflow
    row_scale = torch.maximum(row_norms.max(), encoder.biases.abs().max() / x_scale)
    row_scale = row_scale.clamp(min=TINY)
    left = x.new_zeros(len(x), width_of(d_in), dtype=dtype)
    torch.mul(x, 1 / x_scale, out=left[:, :d_in])
    torch.mul(x_norms, 1 / x_scale, out=left[:, d_in])
    left[:, d_in + 1 : d_in + 3] = 1
    right = x.new_zeros(encoder.d_sae, width_of(d_in), dtype=dtype)
    torch.mul(encoder.rows, 1 / row_scale, out=right[:, :d_in])
    error = more * (3 * UNIT + sum_error)
    torch.mul(row_norms, error / row_scale, out=right[:, d_in])
    biases = encoder.biases / (x_scale * row_scale)
    biases += more * ((UNIT + sum_error) * biases.abs() + (2 * d_in**0.5 + 3) * LEAST)
    right[:, d_in + 1] = biases
    right[:, d_in + 2] = biases - right[:, d_in + 1]
    return Bounded(left, right, x_scale * row_scale)


class CUDABackend:
    """Implements `Backend`. What is not finite passes through: the SAE looks for it."""

    max_active_share = 1 / 16  # benchmarks/crossover.py
    piece = 1 << 30
    reads_freely = False

    def select(self, matrix: torch.Tensor, n_keep: int) -> torch.Tensor:
        chunk = max(1, CHUNK // matrix.shape[1])
        found = [_largest(part, n_keep) for part in matrix.split(chunk)]
        return _joined(found, chunk * matrix.shape[1], n_keep)[1]

    def largest(
        self,
        x: Rows,
        encoder: Encoder,
        n_keep: int,
        dead: torch.Tensor,
        n_near: int = 0,
        spare: float = 2,
    ) -> tuple[Selected, torch.Tensor]:
        x = x[slice(None)]
        n_all = len(x) * encoder.d_sae
        n_looked_at = min(int(spare * n_keep), n_all)
        factors = bounded(x, encoder)
        bounds, flat = _screen(factors, n_looked_at)
        near = flat.sort().values
        found = self.among(near, x, encoder, n_keep)
        in_doubt = None
        if n_looked_at < n_all:
            in_doubt = found.acts.min() < bounds.min() * factors.scale
        if n_near:
            largest = bounds.topk(min(n_keep + n_near, n_all), sorted=False).indices
            near = flat[largest].sort().values
        selected = Selected(found.flat, found.acts, near if n_near else None, in_doubt)
        return selected, encoder.acts_of(dead, x)

    def among(
        self, near: torch.Tensor, x: torch.Tensor, encoder: Encoder, n_keep: int
    ) -> Selected:
        acts = encoder.acts_at(near, x)
        acts, kept = acts.topk(n_keep, sorted=False)
        return Selected(near[kept], acts.relu())

    def weighted_sums(self, sums: Sums, rows: torch.Tensor) -> torch.Tensor:
        if torch.are_deterministic_algorithms_enabled():  # the sparse product is not
            return CPU.weighted_sums(sums, rows)
        return csr(sums, len(rows)) @ rows

    def sums_in_columns(self, sums: Sums, rows: torch.Tensor) -> torch.Tensor:
        return self.weighted_sums(sums, rows).t().contiguous()


CUDA = CUDABackend()


def _screen(factors: Bounded, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n` largest bounds, and the flat indices of their pairs."""
    d_sae = len(factors.right)
    chunk = max(1, CHUNK // d_sae)
    found = [
        _largest(_product(part, factors.right), n) for part in factors.left.split(chunk)
    ]
    return _joined(found, chunk * d_sae, n)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    with summed_in_float32():
        return left @ right.t()


def _largest(block: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, flat = block.flatten().topk(min(n, block.numel()), sorted=False)
    return values, flat


def _joined(
    found: list[tuple[torch.Tensor, torch.Tensor]], stride: int, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n` largest of what consecutive chunks of `stride` values have, and their indices."""
    if len(found) == 1:
        return found[0]
    values, flat = zip(*found, strict=True)
    moved = [indices + number * stride for number, indices in enumerate(flat)]
    largest, kept = torch.cat(values).topk(n, sorted=False)
    return largest, torch.cat(moved)[kept]


@contextmanager
def summed_in_float32() -> Iterator[None]:
    """Keeps products of half precision from adding up parts of their sums in it inside."""
    matmul, name = torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"
    before = getattr(matmul, name)
    setattr(matmul, name, False)
    try:
        yield
    finally:
        setattr(matmul, name, before)
