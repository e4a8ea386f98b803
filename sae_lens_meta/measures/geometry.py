"""How the rows of a decoder lie to each other."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from sae_lens_meta.training.penalty import unit_rows

BLOCK_ROWS = 1024
N_BINS = 2000  # of the cosine histogram, from -1 to 1


@dataclass
class Geometry:
    """
    Cosines between the rows of one decoder.

    Attributes:
        mean_abs_cosine: over all pairs i < j.
        nearest_cosine: `[d_sae]` float32, of each row to its nearest other row.
        nearest: `[d_sae]`, which row that is.
        histogram: `[2000]`, pairs i < j by cosine, in equal bins from -1 to 1.
        effective_rank: exponential of the entropy of the unit rows' squared singular values,
            normalised to 1: `d_in` for directions spread evenly, 1 for a single direction.
    """

    mean_abs_cosine: float
    nearest_cosine: np.ndarray
    nearest: np.ndarray
    histogram: np.ndarray
    effective_rank: float


@torch.no_grad()
def decoder_geometry(W_dec: torch.Tensor) -> Geometry:
    """
    Geometry of the directions of `W_dec`, `[d_sae, d_in]`, in blocks of rows.

    Raises:
        ValueError: for fewer than two rows, or a row that is zero or not finite.
    """
    rows = checked_unit_rows(W_dec)
    d_sae = len(rows)
    if d_sae < 2:
        raise ValueError(f"Cosines take two rows, got {d_sae}.")
    total, histogram = 0.0, torch.zeros(N_BINS, dtype=torch.float64)
    cosines, nearest = torch.empty(d_sae), torch.empty(d_sae, dtype=torch.long)
    starts = range(0, d_sae, BLOCK_ROWS)
    for first in tqdm(starts, desc="Cosines", leave=False, disable=len(starts) < 8):
        block = rows[first : first + BLOCK_ROWS] @ rows.t()
        own = torch.arange(len(block))
        block[own, first + own] = -torch.inf
        part = slice(first, first + len(block))
        cosines[part], nearest[part] = block.max(dim=1)
        later = block[:, first:].triu(diagonal=1).cpu()
        above = torch.ones_like(later, dtype=torch.bool).triu(diagonal=1)
        pairs = later[above].clamp(-1, 1)
        total += pairs.abs().double().sum().item()
        histogram += torch.histc(pairs, N_BINS, -1, 1).double()
    return Geometry(
        mean_abs_cosine=total / (d_sae * (d_sae - 1) / 2),
        nearest_cosine=cosines.numpy(),
        nearest=nearest.numpy(),
        histogram=histogram.long().numpy(),
        effective_rank=_effective_rank(rows),
    )


@torch.no_grad()
def nearest_rows(
    rows: torch.Tensor, others: torch.Tensor, n: int, said: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Cosines `[d, n]` of each of `rows` to its nearest among `others`, nearest first, and which.

    Where `others` is `rows` itself, no row is its own.

    Args:
        rows: unit rows, `[d, d_in]`.
        others: unit rows, `[d_other, d_in]`.
        n: how many of each; fewer where there are fewer.
        said: what a progress bar calls it.
    """
    is_within = others is rows
    n = min(n, len(others) - is_within)
    cosines = torch.empty(len(rows), n)
    nearest = torch.empty(len(rows), n, dtype=torch.long)
    starts = range(0, len(rows), BLOCK_ROWS)
    for first in tqdm(starts, desc=said, leave=False, disable=len(starts) < 8):
        part = slice(first, first + BLOCK_ROWS)
        block = rows[part] @ others.t()
        if is_within:
            own = torch.arange(len(block))
            block[own, first + own] = -torch.inf
        cosines[part], nearest[part] = block.topk(n, dim=1)
    return cosines, nearest


def checked_unit_rows(W_dec: torch.Tensor) -> torch.Tensor:
    """
    Unit rows in float32.

    Raises:
        ValueError: if a row is zero or not finite, naming it.
    """
    norms = W_dec.detach().float().norm(dim=1)
    bad = (~torch.isfinite(norms) | (norms == 0)).nonzero().flatten()
    if len(bad) > 0:
        raise ValueError(
            f"{len(bad)} decoder rows are zero or not finite (first: row {int(bad[0])}) "
            "and have no direction."
        )
    return unit_rows(W_dec.detach().float())


def _effective_rank(rows: torch.Tensor) -> float:
    """Roy and Vetterli (2007), of the covariance `rows^T rows`."""
    energies = torch.linalg.eigvalsh((rows.t() @ rows).double()).clamp(min=0)
    shares = energies[energies > 0] / energies.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))
