"""The object: each latent's meta latents and each meta latent's latents, with their weights."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from sae_lens import SAE

from sae_lens_meta.decomposition.nulls import Nulls
from sae_lens_meta.decomposition.stability import Stability
from sae_lens_meta.sparse import without_advice
from sae_lens_meta.training.meta_fit import meta_fit

BLOCK_ROWS = 1024
NORMALIZATIONS = ("none", "layer_norm")  # those that are undone row by row


class LowRank(NamedTuple):
    """
    A matrix `[n, d_in]` as a product.

    Attributes:
        weights: `[n, 2]`.
        rows: `[2, d_in]`.
    """

    weights: torch.Tensor
    rows: torch.Tensor


class Weighted(NamedTuple):
    """
    Latents with what each weighs, strongest first.

    Attributes:
        latents: `[n]`, of the SAE or of the meta SAE.
        weights: `[n]`.
    """

    latents: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Decomposition:
    """
    A meta SAE over the decoder rows of an SAE, opened.

    With w_i the unit row of latent i and v_j the unit row of meta latent j,

        r_i = sum_j coefficients_ij v_j + constant_i

    is what the meta SAE makes of w_i. `constant` is what every row gets whatever its parts:
    `s_i b_dec + m_i 1`, with m_i the mean over coordinates of w_i and s_i their deviation where
    the meta SAE sees rows under `layer_norm`, and with s_i = 1, m_i = 0 where it does not.

    Attributes:
        rows: w, the SAE's unit decoder rows, `[d_sae, d_in]` float32.
        directions: v, the meta SAE's unit decoder rows, `[n_meta, d_in]` float32.
        coefficients: sparse CSR `[d_sae, n_meta]` float32, none negative.
        constant: `[d_sae, d_in]`, as a product.
        explained_variance: of the unit rows about their mean, by r: 1 where r = w, and 0 where r
            is the mean row for all of them.
        origin: `joint` where the meta SAE was trained with the SAE, `fitted` where it was fitted
            to the finished one.
        meta_sae: that was opened, a stock SAE of SAELens.
        settings: that it was fitted with; of a joint one, those of its training that it records.
        decoder_sha256: of the SAE's decoder in float32; None where it was not asked for.
        nulls: what is explained of rows without parts; None where nobody looked.
        stability: whether its meta latents come back with another seed; None where nobody looked.
    """

    rows: torch.Tensor
    directions: torch.Tensor
    coefficients: torch.Tensor
    constant: LowRank
    explained_variance: float
    origin: Literal["joint", "fitted"]
    meta_sae: SAE[Any]
    settings: dict[str, Any]
    decoder_sha256: str | None = None
    nulls: Nulls | None = None
    stability: Stability | None = None

    @property
    def d_sae(self) -> int:
        """Latents of the SAE."""
        return len(self.rows)

    @property
    def n_meta(self) -> int:
        """Meta latents, those that no row uses included."""
        return len(self.directions)

    @property
    def parts_per_row(self) -> float:
        """Mean number of meta latents that a row is made of."""
        return self.coefficients.values().numel() / self.d_sae

    def parts_of(self, latent: int) -> Weighted:
        """
        The meta latents that decoder row `latent` is made of, and the share of the row each is.

        The share of meta latent j is `coefficients_ij <v_j, w_i>`, negative where the part points
        away from the row. These, `constant_shares[i]` and `unexplained[i]` add up to 1.

        Raises:
            IndexError: if the SAE has no such latent.
        """
        _check_index(latent, self.d_sae, "latent")
        start, end = self.coefficients.crow_indices()[latent : latent + 2].tolist()
        return _strongest_first(
            self.coefficients.col_indices()[start:end], self.shares.values()[start:end]
        )

    def latents_of(self, meta_latent: int) -> Weighted:
        """
        The latents whose decoder rows are made of `meta_latent`, and their coefficients.

        Raises:
            IndexError: if there is no such meta latent.
        """
        _check_index(meta_latent, self.n_meta, "meta latent")
        by_meta = self._coefficients_by_meta
        start, end = by_meta.ccol_indices()[meta_latent : meta_latent + 2].tolist()
        return _strongest_first(
            by_meta.row_indices()[start:end], by_meta.values()[start:end]
        )

    def reconstructed(self, latents: torch.Tensor) -> torch.Tensor:
        """r of `latents` `[n]`, `[n, d_in]`."""
        recons = self.constant.weights[latents] @ self.constant.rows
        starts = self.coefficients.crow_indices()
        counts = starts.diff()[latents]
        samples = torch.arange(len(latents)).repeat_interleave(counts)
        within = torch.arange(len(samples)) - (counts.cumsum(0) - counts)[samples]
        places = starts[latents][samples] + within
        values = self.coefficients.values()[places, None]
        parts = values * self.directions[self.coefficients.col_indices()[places]]
        return recons.index_add_(0, samples, parts)

    @cached_property
    def shares(self) -> torch.Tensor:
        """`coefficients_ij <v_j, w_i>`, sparse CSR `[d_sae, n_meta]`: see `parts_of`."""
        coefficients = self.coefficients
        latents, metas = _places(coefficients)
        shares = torch.empty_like(coefficients.values())
        for first in range(0, len(shares), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            cosines = (self.rows[latents[part]] * self.directions[metas[part]]).sum(1)
            shares[part] = coefficients.values()[part] * cosines
        with without_advice():
            return torch.sparse_csr_tensor(
                coefficients.crow_indices(), metas, shares, coefficients.shape
            )

    @cached_property
    def constant_shares(self) -> torch.Tensor:
        """`<constant_i, w_i>`, `[d_sae]`."""
        return (self.constant.weights * (self.rows @ self.constant.rows.t())).sum(dim=1)

    @cached_property
    def unexplained(self) -> torch.Tensor:
        """`1 - <r_i, w_i>`, `[d_sae]`: the share of a row that is neither parts nor constant."""
        latents, _ = _places(self.shares)
        parts = self.constant_shares.new_zeros(self.d_sae)
        parts.index_add_(0, latents, self.shares.values())
        return 1 - parts - self.constant_shares

    @cached_property
    def use(self) -> torch.Tensor:
        """How many rows are made of each meta latent, `[n_meta]`."""
        return self.coefficients.col_indices().bincount(minlength=self.n_meta)

    @cached_property
    def _coefficients_by_meta(self) -> torch.Tensor:
        with without_advice():
            return self.coefficients.to_sparse_csc()


@torch.no_grad()
def decomposed(
    rows: torch.Tensor,
    meta_sae: SAE[Any],
    origin: Literal["joint", "fitted"],
    settings: dict[str, Any],
    decoder_sha256: str | None = None,
) -> Decomposition:
    """
    Opens `meta_sae` over unit decoder rows `[d_sae, d_in]`.

    Raises:
        ValueError: if the meta SAE is of another width, or sees rows under a normalisation that
            is not undone row by row.
    """
    if meta_sae.cfg.d_in != rows.shape[1]:
        raise ValueError(
            f"The meta SAE reads vectors of width {meta_sae.cfg.d_in}, and the SAE's decoder "
            f"rows are {rows.shape[1]} wide: it is that of another SAE."
        )
    if meta_sae.cfg.normalize_activations not in NORMALIZATIONS:
        raise ValueError(
            "The meta SAE has normalize_activations="
            f"{meta_sae.cfg.normalize_activations!r}; only {' and '.join(NORMALIZATIONS)} can "
            "be taken apart row by row."
        )
    directions = meta_sae.W_dec.float()
    norms = directions.norm(dim=1)
    constant = _constant(rows, meta_sae)
    blocks, distances = [], []
    for first in range(0, len(rows), BLOCK_ROWS):
        part = slice(first, first + BLOCK_ROWS)
        codes = meta_sae.encode(rows[part]).float()
        coefficients = codes * norms * constant.weights[part, :1]
        recons = (codes * constant.weights[part, :1]) @ directions
        recons += constant.weights[part] @ constant.rows
        distances.append((rows[part] - recons).pow(2).sum(dim=1))
        blocks.append(coefficients.to_sparse_coo())
    fit = meta_fit(rows, torch.cat(distances))
    with without_advice():
        csr = torch.cat(blocks).coalesce().to_sparse_csr()
    return Decomposition(
        rows=rows,
        directions=directions / norms[:, None],
        coefficients=csr,
        constant=constant,
        explained_variance=float(fit["meta_explained_variance"]),
        origin=origin,
        meta_sae=meta_sae,
        settings=settings,
        decoder_sha256=decoder_sha256,
    )


def _constant(rows: torch.Tensor, meta_sae: SAE[Any]) -> LowRank:
    b_dec = meta_sae.b_dec.float()
    if meta_sae.cfg.normalize_activations == "layer_norm":
        deviation, mean = rows.std(dim=1), rows.mean(dim=1)  # as SAELens takes them
    else:
        deviation, mean = rows.new_ones(len(rows)), rows.new_zeros(len(rows))
    return LowRank(
        torch.stack([deviation, mean], dim=1),
        torch.stack([b_dec, torch.ones_like(b_dec)]),
    )


def _places(csr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of each value of a sparse CSR matrix."""
    counts = csr.crow_indices().diff()
    return torch.arange(len(counts)).repeat_interleave(counts), csr.col_indices()


def _strongest_first(latents: torch.Tensor, weights: torch.Tensor) -> Weighted:
    order = weights.abs().argsort(descending=True, stable=True)
    return Weighted(latents[order], weights[order])


def _check_index(index: int, n: int, what: str) -> None:
    if not 0 <= index < n:
        raise IndexError(f"There is no {what} {index}: they are 0 to {n - 1}.")
