"""Whether a parent's latent goes silent where a child's fires, which does its work (absorption)."""

from dataclasses import dataclass

import numpy as np
import torch

from sae_lens_meta.measures.geometry import checked_unit_rows
from sae_lens_meta.measures.matching import match_latents

MIN_SAMPLES = 20  # of a parent alone and with a child, for a recall


@dataclass(frozen=True)
class Absorption:
    """
    Means over parent and child, of those that were measured.

    Attributes:
        recall_alone: share of the samples with the parent and none of its children on which the
            parent's latent fires.
        recall_with_child: the same of those with the parent and the child. Where the child's latent
            absorbs the parent's direction, the parent's own latent is not needed there.
        gap: `recall_alone - recall_with_child`.
        excess_cosine: cosine of the two latents' decoder rows above that of the true directions:
            above 0 where the child's row holds some of the parent's direction.
        n_pairs: measured: both have a latent, and enough samples.
    """

    recall_alone: float
    recall_with_child: float
    gap: float
    excess_cosine: float
    n_pairs: int


@torch.no_grad()
def absorption(
    W_dec: torch.Tensor,
    codes: torch.Tensor,
    directions: torch.Tensor,
    features: torch.Tensor,
    pairs: torch.Tensor,
) -> Absorption | None:
    """
    Absorption of parents by their children (arXiv:2409.14507), where both are known.

    A feature's latent is the one that an optimal assignment by cosine gives it.

    Args:
        W_dec: decoder rows, `[d_sae, d_in]`.
        codes: of the SAE on the samples, `[n, d_sae]`.
        directions: true features, `[n_features, d_in]`.
        features: of the samples, `[n, n_features]`.
        pairs: parents with their children, `[n_pairs, 2]`.

    Returns:
        It; None where no pair can be measured.
    """
    if len(pairs) == 0:
        return None
    partner = match_latents(directions, W_dec).partner
    true, rows = checked_unit_rows(directions), checked_unit_rows(W_dec)
    # a feature's samples, and a latent's, lie together
    fires, firing = _by_row(features > 0), _by_row(codes != 0)
    found = []
    for parent in pairs[:, 0].unique().tolist():
        children = pairs[pairs[:, 0] == parent, 1]
        alone = fires[parent] & ~fires[children].any(dim=0)
        latent = partner[parent]
        if latent < 0 or alone.sum() < MIN_SAMPLES:
            continue
        recall_alone = firing[latent, alone].float().mean().item()
        for child in children.tolist():
            both = fires[parent] & fires[child]
            if partner[child] < 0 or both.sum() < MIN_SAMPLES:
                continue
            recall = firing[latent, both].float().mean().item()
            cosine = float(rows[latent] @ rows[partner[child]])
            excess = cosine - float(true[parent] @ true[child])
            found.append((recall_alone, recall, recall_alone - recall, excess))
    if not found:
        return None
    means = [float(mean) for mean in np.mean(found, axis=0)]
    return Absorption(*means, n_pairs=len(found))


def _by_row(columns: torch.Tensor) -> torch.Tensor:
    return columns.t().contiguous()
