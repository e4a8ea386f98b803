"""What of a block is above a cut, in two passes over it: torch's `nonzero` and indexing take several."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def above(block, cut, offset, stride):  # type: ignore[no-untyped-def]
    """
    Flat indices and values of what exceeds `cut`, row by row.

    Args:
        block: `[rows, columns]`, float32 or float64.
        cut: of the same type.
        offset: index of its first value in the flattened matrix.
        stride: number of columns of the matrix.

    Returns:
        `[n_above]` int64, and `[n_above]` of the type of `block`.
    """
    n_rows, n_columns = block.shape
    n_above = 0
    for row in range(n_rows):
        for column in range(n_columns):
            n_above += block[row, column] > cut
    # one place more: all are written, without a branch that no processor foresees, and those
    # that do not exceed the cut are written over
    flat = np.empty(n_above + 1, np.int64)
    values = np.empty(n_above + 1, block.dtype)
    place = 0
    for row in range(n_rows):
        for column in range(n_columns):
            flat[place] = offset + row * stride + column
            values[place] = block[row, column]
            place += block[row, column] > cut
    return flat[:n_above], values[:n_above]
