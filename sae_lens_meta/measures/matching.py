"""Pairing the latents of two SAEs by the direction of their decoder rows."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from sae_lens_meta.measures.geometry import checked_unit_rows, nearest_rows

# The optimal assignment keeps all cosines: 12 bytes a pair, 5 GB at 20,480 latents.
MAX_EXACT = 24_576
N_CANDIDATES = 64


@dataclass
class Matching:
    """
    A one-to-one assignment of latents that makes the sum of cosines large.

    Attributes:
        partner: `[d_a]`, the latent of the second SAE, or -1 where it has none left.
        cosine: `[d_a]` float32, of the two decoder rows; NaN without a partner.
        mean_cosine: over the pairs.
        upper_bound: no assignment of as many pairs has a higher mean: that of every row's
            nearest, taken however often.
        is_optimal: whether the sum of cosines is the largest there is.
    """

    partner: np.ndarray
    cosine: np.ndarray
    mean_cosine: float
    upper_bound: float
    is_optimal: bool


@torch.no_grad()
def match_latents(
    W_a: torch.Tensor, W_b: torch.Tensor, max_exact: int = MAX_EXACT
) -> Matching:
    """
    Matches decoder rows `[d_a, d_in]` to `[d_b, d_in]` by cosine.

    Up to `max_exact` latents the assignment is optimal (Hungarian). Above, it is optimal
    among each row's 64 nearest, and what is left over is assigned by itself; the distance
    of `mean_cosine` to `upper_bound` says what that can have cost.

    Raises:
        ValueError: if the two differ in `d_in`, or a row has no direction.
    """
    if W_a.shape[1] != W_b.shape[1]:
        raise ValueError(
            f"Decoders of d_in {W_a.shape[1]} and {W_b.shape[1]} cannot be matched: "
            "compare SAEs of the same hook of the same model."
        )
    a, b = checked_unit_rows(W_a).cpu(), checked_unit_rows(W_b).cpu()
    is_optimal = max(len(a), len(b)) <= max_exact
    if is_optimal:
        cosines = (a @ b.t()).numpy()
        partner = _assign(cosines)
        nearest = cosines.max(axis=1)
    else:
        partner, nearest = _assign_nearest(a, b)
    paired = partner >= 0
    cosine = np.full(len(a), np.nan, dtype=np.float32)
    left, right = (
        torch.from_numpy(paired.nonzero()[0]),
        torch.from_numpy(partner[paired]),
    )
    cosine[paired] = (a[left] * b[right]).sum(dim=1).numpy()
    return Matching(
        partner=partner,
        cosine=cosine,
        mean_cosine=float(np.nanmean(cosine)),
        upper_bound=float(np.sort(nearest)[::-1][: paired.sum()].mean()),
        is_optimal=is_optimal,
    )


def random_dictionary(like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Rows of random direction in the shape of `like`: matched, they show what chance gives."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator)


def _assign(cosines: np.ndarray) -> np.ndarray:
    # scipy wants float64, and would copy once more to negate
    rows, columns = linear_sum_assignment(np.negative(cosines, dtype=np.float64))
    partner = np.full(len(cosines), -1, dtype=np.int64)
    partner[rows] = columns
    return partner


def _assign_nearest(a: torch.Tensor, b: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """
    The best assignment that uses each row's nearest candidates only, then the rest.

    Every row has a column of its own beside the candidates, dearer than all of them, so
    that a full assignment always exists; a row that ends there is left over.

    Returns:
        The partners `[d_a]`, and each row's highest cosine.
    """
    n_a, n_b = len(a), len(b)
    n_near = min(N_CANDIDATES, n_b)
    near, places = (found.numpy() for found in nearest_rows(a, b, n_near, "Matching"))
    own = np.arange(n_a)[:, None]
    costs = np.concatenate([2.0 - near, np.full((n_a, 1), 4.0)], axis=1)
    choices = np.concatenate([places, n_b + own], axis=1)
    starts = np.arange(0, costs.size + 1, n_near + 1)
    graph = csr_array((costs.ravel(), choices.ravel(), starts), shape=(n_a, n_b + n_a))
    _, chosen = min_weight_full_bipartite_matching(graph)
    partner = np.where(chosen < n_b, chosen, -1)
    left_a = (partner < 0).nonzero()[0]
    left_b = np.setdiff1d(np.arange(n_b), partner)
    if len(left_a) and len(left_b):
        rest = _assign((a[left_a] @ b[left_b].t()).numpy())
        partner[left_a] = np.where(rest >= 0, left_b[rest], -1)
    return partner, near.max(axis=1)
