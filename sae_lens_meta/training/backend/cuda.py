"""
A pass on a GPU: fixed shapes, no read of the device, and the one product on tensor cores.

Tensor cores multiply float32 matrices in TF32, which keeps 10 bits of the mantissa, six to
seven times as fast as in float32. The largest activations are therefore searched in two
steps: a product in TF32 gives each pair (i, j) a bound `U_ij = a_ij + e |x_i| |w_j|` that its
float32 activation cannot exceed, and the `n_looked_at` pairs of the largest bounds are
computed again in float32, where the `n_keep` largest are taken. What was left out
cannot be among them if the smallest that is kept is no smaller than the smallest bound
looked at; `Selected.in_doubt` says where it is, and the SAE then looks at twice as many.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sae_lens_meta.training.backend.cpu import CPU
from sae_lens_meta.training.backend.interface import Encoder, Rows, Selected, Sums, csr

# Activations `[rows, d_sae]` that exist at once: 0.27 GB, a product that fills a GPU.
CHUNK = 1 << 26


def screening_error(d_in: int) -> float:
    """
    How far TF32 may move a product of two vectors, relative to their norms' product.

    Each factor loses up to 2^-10 of itself where the bits beyond TF32's are cut off, and the
    sum of `d_in` terms is rounded in float32.
    """
    return 2 * 2**-10 + 2**-20 + d_in * 2**-23


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
        bounds, flat = _screen(x, encoder, n_looked_at)
        near = flat.sort().values
        found = self.among(near, x, encoder, n_keep)
        in_doubt = None
        if n_looked_at < n_all:
            in_doubt = found.acts.min() < bounds.min()
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


def _screen(
    x: torch.Tensor, encoder: Encoder, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n` largest bounds, and the flat indices of their pairs."""
    is_float32 = x.dtype == torch.float32
    error = screening_error(x.shape[1]) if is_float32 else 0.0
    x_norms, row_norms = x.norm(dim=1), encoder.rows.norm(dim=1)
    chunk = max(1, CHUNK // encoder.d_sae)
    found = []
    for part, norms in zip(x.split(chunk), x_norms.split(chunk), strict=True):
        block = _product(part, encoder)
        block.addr_(norms, row_norms, alpha=error)
        found.append(_largest(block, n))
    return _joined(found, chunk * encoder.d_sae, n)


def _product(x: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    with tensor_cores():
        return torch.addmm(encoder.biases, x, encoder.rows.t())


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
def tensor_cores() -> Iterator[None]:
    """Lets float32 products run in TF32 inside."""
    matmul = torch.backends.cuda.matmul
    # torch 2.9 calls the setting by another name, and the two are not to be mixed
    name, on = "allow_tf32", True
    if hasattr(matmul, "fp32_precision"):
        name, on = "fp32_precision", "tf32"
    before = getattr(matmul, name)
    setattr(matmul, name, on)
    try:
        yield
    finally:
        setattr(matmul, name, before)
