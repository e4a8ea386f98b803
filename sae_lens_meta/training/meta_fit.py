"""The two figures that are logged of a meta SAE."""

import torch


@torch.no_grad()
def meta_fit(
    W_dec: torch.Tensor, squared_distances: torch.Tensor
) -> dict[str, torch.Tensor]:
    """
    How well unit decoder rows are meta-reconstructed.

    Args:
        W_dec: decoder rows, `[d_sae, d_in]`.
        squared_distances: of each unit row to its reconstruction, `[d_sae]`.

    Returns:
        `meta_mse`, summed over dimensions and averaged over rows, and
        `meta_explained_variance`, 1 for a perfect and 0 for a constant reconstruction.
    """
    mse = squared_distances.mean()
    mean_row = (1 / W_dec.norm(dim=-1)) @ W_dec / len(W_dec)
    variance = 1 - mean_row.pow(2).sum()  # the mean squared norm of the rows is 1
    return {"meta_mse": mse, "meta_explained_variance": 1 - mse / variance}
