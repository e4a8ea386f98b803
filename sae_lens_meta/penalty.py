"""The decomposability penalty: how well the meta SAE reconstructs each decoder row."""

import torch


def unit_rows(W_dec: torch.Tensor) -> torch.Tensor:
    """
    Decoder rows at norm 1, in the shape `[d_sae, d_in]` of `W_dec`.

    SAELens leaves the norm of a decoder row free and folds it into the activations;
    the paper keeps rows at norm 1, so the objective sees directions only.
    """
    return W_dec / W_dec.norm(dim=-1, keepdim=True)


def decomposability(
    rows: torch.Tensor, meta_reconstructions: torch.Tensor, bandwidth: float
) -> torch.Tensor:
    """
    Penalty of each latent, `p_i = exp(-||w_i - r_i||^2 / sigma^2)`, in `(0, 1]`.

    The gradient reaches a row through the explicit `w_i` only and points away from the
    current meta reconstruction, which is held fixed (arXiv:2604.03436, section 3).

    Args:
        rows: unit-norm decoder rows w_i, `[d_sae, d_in]`.
        meta_reconstructions: r_i in the same scale, `[d_sae, d_in]`.
        bandwidth: sigma^2, in squared units of a row's norm.

    Returns:
        The penalties, `[d_sae]`.
    """
    squared_distance = (rows - meta_reconstructions.detach()).pow(2).sum(dim=-1)
    return torch.exp(-squared_distance / bandwidth)
