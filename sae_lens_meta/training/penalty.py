"""The decomposability penalty: how well the meta SAE reconstructs each decoder row."""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from sae_lens_meta.training.backend import norms_and_products, sums_of_two


def unit_rows(W_dec: torch.Tensor) -> torch.Tensor:
    """
    Decoder rows at norm 1, in the shape `[d_sae, d_in]` of `W_dec`.

    SAELens leaves the norm of a decoder row free and folds it into the activations;
    the paper keeps rows at norm 1, so the objective sees directions only.
    """
    return W_dec / W_dec.norm(dim=-1, keepdim=True)


class Decomposability(NamedTuple):
    """
    Attributes:
        penalties: p_i of each latent, `[d_sae]`, with gradient.
        squared_distances: `||w_i - r_i||^2`, `[d_sae]`, without.
    """

    penalties: torch.Tensor
    squared_distances: torch.Tensor


def decomposability(
    W_dec: torch.Tensor, meta_reconstructions: torch.Tensor, bandwidth: float
) -> Decomposability:
    """
    Penalty of each latent, `p_i = exp(-||w_i - r_i||^2 / sigma^2)`, in `(0, 1]`.

    `w_i` is the decoder row W_i at norm 1. The gradient reaches it through the explicit
    `w_i` only; the meta reconstruction is held fixed (arXiv:2604.03436, section 3). With
    `s_i = w_i . r_i` it is

        dp_i/dW_i = 2 p_i / (sigma^2 ||W_i||) * (r_i - s_i w_i),

    the part of r_i across w_i: a step down turns the row away from its reconstruction and
    leaves its norm alone. It is written out because autograd's way through the
    normalisation takes a dozen passes over `[d_sae, d_in]` and as many copies of it.

    Args:
        W_dec: decoder rows of any norm above 0, `[d_sae, d_in]`.
        meta_reconstructions: r_i in the scale of unit rows, `[d_sae, d_in]`.
        bandwidth: sigma^2, in squared units of a row's norm.
    """
    return Decomposability(
        *_Decomposability.apply(W_dec, meta_reconstructions.detach(), bandwidth)  # type: ignore[misc]
    )


class _Decomposability(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, W_dec: torch.Tensor, recons: torch.Tensor, bandwidth: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        norms, lengths, products = norms_and_products(W_dec, recons)
        overlaps = products / norms
        distances = (1 - 2 * overlaps + lengths.pow(2)).relu()
        penalties = torch.exp(-distances / bandwidth)
        ctx.save_for_backward(W_dec, recons, norms, overlaps, penalties)
        ctx.bandwidth = bandwidth
        ctx.mark_non_differentiable(distances)
        return penalties, distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> Any:  # type: ignore[override]
        W_dec, recons, norms, overlaps, penalties = ctx.saved_tensors
        scale = 2 * grad * penalties / (ctx.bandwidth * norms)
        across = -scale * overlaps / norms
        return sums_of_two(recons, scale, W_dec, across), None, None
