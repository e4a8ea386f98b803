"""
Kernels in Triton for a GPU, each program of which holds one row in registers.

torch's own operations write what lies between two of them and read it again. One pair (i, j) at a
time, by few warps: so many programs run at once that each may wait for memory. What steps gain by
them is in docs/performance.md.
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
    _for_each_row(_sampled_products, left, starts, latents, right, products)
    return products


def differences(
    sums: Sums, rows: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`ActiveCodes.differences`, of the codes as sums over the rows of a decoder."""
    difference, squares = target.new_empty(target.shape), target.new_empty(len(target))
    products = target.new_empty(len(sums.indices))
    _for_each_row(
        _differences, target, sums.starts, sums.indices, sums.weights, rows,
        difference, squares, products,
    )  # fmt: skip
    return difference, squares, products


def normalized_rows(
    W_dec: torch.Tensor, shift: torch.Tensor, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`NormalizedRows`, whole, with means and deviations; `eps` is that of layer_norm, None without."""
    rows = W_dec.new_empty(W_dec.shape)
    mean, std = W_dec.new_zeros(len(W_dec), 1), W_dec.new_ones(len(W_dec), 1)
    _for_each_row(
        _normalized_rows, W_dec, shift, rows, mean, std, eps or 0.0, LAYER_NORM=eps is not None
    )  # fmt: skip
    return rows, mean, std


def norms_and_products(
    left: torch.Tensor, right: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`interface.norms_and_products`."""
    of_left, of_right, products = left.new_empty(3, len(left))
    _for_each_row(_norms_and_products, left, right, of_left, of_right, products)
    return of_left, of_right, products


def sums_of_two(
    left: torch.Tensor, a: torch.Tensor, right: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """`interface.sums_of_two`."""
    sums = left.new_empty(left.shape)
    _for_each_row(_sums_of_two, left, a, right, b, sums)
    return sums


def _for_each_row(kernel: Any, matrix: torch.Tensor, *others: Any, **more: Any) -> None:
    """Runs a program for each row of `matrix`, on its device; what is written to is contiguous."""
    n_rows, width = matrix.shape
    block = triton.next_power_of_2(width)
    inputs = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in others]
    with torch.cuda.device_of(matrix):
        kernel[(n_rows,)](
            matrix.contiguous(), *inputs, width,
            BLOCK=block, num_warps=max(4, block // 1024), **more,
        )  # fmt: skip


@triton.jit
def _row(matrix, i, columns, width):  # type: ignore[no-untyped-def]
    """Row i, and 0 from `width` on."""
    return tl.load(matrix + i * width + columns, mask=columns < width, other=0.0)


@triton.jit
def _sampled_products(  # type: ignore[no-untyped-def]
    left, starts, latents, right, products, width, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    row = _row(left, i, columns, width)
    for pair in range(tl.load(starts + i), tl.load(starts + i + 1)):
        other = _row(right, tl.load(latents + pair), columns, width)
        tl.store(products + pair, tl.sum(row * other))


@triton.jit
def _differences(  # type: ignore[no-untyped-def]
    target, starts, latents, weights, matrix, difference, squares, products, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    begin, last = tl.load(starts + i), tl.load(starts + i + 1)
    found = -_row(target, i, columns, width)
    for pair in range(begin, last):
        row = _row(matrix, tl.load(latents + pair), columns, width)
        found += tl.load(weights + pair) * row
    # a weight that is not finite makes NaN of the 0 there
    found = tl.where(columns < width, found, 0.0)
    tl.store(difference + i * width + columns, found, mask=columns < width)
    tl.store(squares + i, tl.sum(found * found))
    for pair in range(begin, last):
        row = _row(matrix, tl.load(latents + pair), columns, width)
        tl.store(products + pair, tl.sum(found * row))


@triton.jit
def _normalized_rows(  # type: ignore[no-untyped-def]
    W_dec, shift, rows, means, stds, eps, width, LAYER_NORM: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    row = _row(W_dec, i, columns, width)
    found = row / tl.sqrt(tl.sum(row * row))
    if LAYER_NORM:
        mean = tl.sum(found) / width
        std = tl.sqrt((1 - width * mean * mean) / (width - 1))
        found = (found - mean) / (std + eps)
        tl.store(means + i, mean)
        tl.store(stds + i, std)
    found -= _row(shift, 0, columns, width)
    tl.store(rows + i * width + columns, found, mask=columns < width)


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
