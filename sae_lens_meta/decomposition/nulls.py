"""
Rows without parts to find: what a meta SAE explains of them, it explains by other means.

Two nulls, a ladder. Each row of the first keeps nothing but how far it lies along the mean row: what
is explained of it, any meta SAE of this width and k explains of rows that share nothing. The
second keeps the covariance as well: what more is explained of it comes of rows that lie in fewer
directions than there are dimensions. What of the decoder itself is explained beyond the second is what
it takes shared parts for.

One rotation of all rows together would be no null: the fit would turn along with it. Nor would a
rotation of each row within the whitened space be another than the second: it keeps the covariance,
and draws the direction anew.
"""

from dataclasses import dataclass

import torch

from sae_lens_meta.training.penalty import unit_rows


@dataclass(frozen=True)
class Nulls:
    """
    Explained variance of rows without shared parts, by a meta SAE fitted to them alike.

    Attributes:
        turned: of rows each of which was turned by a rotation of its own.
        same_covariance: of rows of random direction with the covariance of the decoder's.
        seed: of the rows and of the fits.
    """

    turned: float
    same_covariance: float
    seed: int


def turned_rows(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """
    Unit rows `[d_sae, d_in]`, each turned about the mean row by a rotation drawn for it alone.

    What a row has along the mean row stays; the rest of it points anywhere, uniformly.
    """
    axis = torch.nn.functional.normalize(rows.mean(dim=0), dim=0)
    along = rows @ axis
    drawn = _normal(rows.shape, seed).to(rows)
    drawn -= (drawn @ axis)[:, None] * axis
    drawn *= ((1 - along.square()).clamp(min=0).sqrt() / drawn.norm(dim=1))[:, None]
    return drawn.addcmul_(along[:, None], axis)


def covariance_rows(
    rows: torch.Tensor, seed: int, n: int | None = None
) -> torch.Tensor:
    """
    `n` normal vectors with the mean and covariance of unit rows `[d_sae, d_in]`, brought to norm 1.

    As many as there are rows where `n` is None.
    """
    mean = rows.mean(dim=0)
    centred = rows - mean
    covariance = (centred.t() @ centred).double() / len(rows)
    variances, axes = torch.linalg.eigh(covariance)
    root = (axes * variances.clamp(min=0).sqrt()).t().to(rows)
    drawn = _normal((len(rows) if n is None else n, rows.shape[1]), seed).to(rows)
    return unit_rows(drawn @ root + mean)


def _normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
