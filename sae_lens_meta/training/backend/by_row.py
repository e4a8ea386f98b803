"""
Kernels in Triton for a GPU, each program of which holds one row in registers.

torch's own operations write what lies between two of them and read it again, and cusparse's sampled
product alone takes half as long again. One pair (i, j) at a time, by few warps: so many
programs run at once that each may wait for memory. Figures are in docs/performance.md.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from sae_lens_meta.training.backend.interface import Sums

WIDEST = 1 << 14  # values of a row that the registers of one program hold


def sampled_products(
    starts: torch.Tensor, latents: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """`interface.sampled_products`."""
    products = left.new_empty(len(latents))
    left, right = left.contiguous(), right.contiguous()
    _sampled_products[(len(left),)](
        starts, latents, left, right, products, left.shape[1], **_sizes(left)
    )
    return products


def differences(
    sums: Sums, rows: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`ActiveCodes.differences`, of the codes as sums over the rows of a decoder."""
    rows, target = rows.contiguous(), target.contiguous()
    difference, squares = torch.empty_like(target), target.new_empty(len(target))
    products = target.new_empty(len(sums.indices))
    _differences[(len(target),)](
        sums.starts, sums.indices, sums.weights.contiguous(), rows, target,
        difference, squares, products, target.shape[1], **_sizes(target),
    )  # fmt: skip
    return difference, squares, products


def normalized_rows(
    W_dec: torch.Tensor, shift: torch.Tensor, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`NormalizedRows`, whole, with means and deviations; `eps` is that of layer_norm, None without."""
    W_dec, rows = W_dec.contiguous(), W_dec.new_empty(W_dec.shape)
    mean, std = W_dec.new_empty(2, len(W_dec), 1)
    sizes: dict[str, Any] = _sizes(W_dec) | {"LAYER_NORM": eps is not None}
    _normalized_rows[(len(W_dec),)](
        W_dec, shift, rows, mean, std, W_dec.shape[1], eps or 0.0, **sizes
    )
    return rows, mean, std


def norms_and_products(
    left: torch.Tensor, right: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`interface.norms_and_products`."""
    left, right = left.contiguous(), right.contiguous()
    of_left, of_right, products = left.new_empty(3, len(left))
    _norms_and_products[(len(left),)](
        left, right, of_left, of_right, products, left.shape[1], **_sizes(left)
    )
    return of_left, of_right, products


def sums_of_two(
    left: torch.Tensor, a: torch.Tensor, right: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """`interface.sums_of_two`."""
    left, right = left.contiguous(), right.contiguous()
    sums = torch.empty_like(left)
    _sums_of_two[(len(left),)](
        left, a.contiguous(), right, b.contiguous(), sums, left.shape[1], **_sizes(left)
    )
    return sums


def _sizes(matrix: torch.Tensor) -> dict[str, Any]:
    block = triton.next_power_of_2(matrix.shape[1])
    return {"BLOCK": block, "num_warps": max(4, block // 1024)}


@triton.jit
def _row(matrix, i, columns, width):  # type: ignore[no-untyped-def]
    """Row i, and 0 from `width` on."""
    return tl.load(matrix + i * width + columns, mask=columns < width, other=0.0)


@triton.jit
def _sampled_products(  # type: ignore[no-untyped-def]
    starts, latents, left, right, products, width, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    row = _row(left, i, columns, width)
    for pair in range(tl.load(starts + i), tl.load(starts + i + 1)):
        other = _row(right, tl.load(latents + pair), columns, width)
        tl.store(products + pair, tl.sum(row * other))


@triton.jit
def _differences(  # type: ignore[no-untyped-def]
    starts, latents, weights, matrix, target, difference, squares, products, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    begin, last = tl.load(starts + i), tl.load(starts + i + 1)
    found = -_row(target, i, columns, width)
    for pair in range(begin, last):
        row = _row(matrix, tl.load(latents + pair), columns, width)
        found += tl.load(weights + pair) * row
    tl.store(difference + i * width + columns, found, mask=columns < width)
    tl.store(squares + i, tl.sum(found * found))
    for pair in range(begin, last):
        row = _row(matrix, tl.load(latents + pair), columns, width)
        tl.store(products + pair, tl.sum(found * row))


@triton.jit
def _normalized_rows(  # type: ignore[no-untyped-def]
    W_dec, shift, rows, means, stds, width, eps, LAYER_NORM: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    row = _row(W_dec, i, columns, width)
    norm = tl.sqrt(tl.sum(row * row))
    mean, std = 0.0 * norm, 0.0 * norm + 1
    if LAYER_NORM:
        mean = tl.sum(row) / norm / width
        std = tl.sqrt((1 - width * mean * mean) / (width - 1))
    found = (row / norm - mean) / (std + eps) - _row(shift, 0, columns, width)
    tl.store(rows + i * width + columns, found, mask=columns < width)
    tl.store(means + i, mean)
    tl.store(stds + i, std)


@triton.jit
def _norms_and_products(  # type: ignore[no-untyped-def]
    left, right, of_left, of_right, products, width, BLOCK: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mine, theirs = _row(left, i, columns, width), _row(right, i, columns, width)
    tl.store(of_left + i, tl.sqrt(tl.sum(mine * mine)))
    tl.store(of_right + i, tl.sqrt(tl.sum(theirs * theirs)))
    tl.store(products + i, tl.sum(mine * theirs))


@triton.jit
def _sums_of_two(left, a, right, b, sums, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mine, theirs = _row(left, i, columns, width), _row(right, i, columns, width)
    found = tl.load(a + i) * mine + tl.load(b + i) * theirs
    tl.store(sums + i * width + columns, found, mask=columns < width)
