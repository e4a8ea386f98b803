"""
How few latents tell of a label: the best single one, firing or not, and k-sparse probes.

Latents of a k-sparse probe are found step by step: those are added whose codes, at equal mean
square, would lower the log loss most steeply, for or against the label, and all weights are
fitted again. It is orthogonal matching pursuit with a logistic loss; ranking all latents at once
by a difference of means (Gurnee et al., arXiv:2305.01610) takes several that say the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix
from scipy.special import expit

from sae_lens_meta.probing.logistic import best_threshold, fit_logistic

KS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)
FEW = 5  # latents of the probe that figures are shown of
L2 = 1e-3


@dataclass
class SparseProbe:
    """
    A logistic probe on a few latents.

    Attributes:
        latents: in the order in which they were found, `[k]`.
        weights: of their codes, `[k]`.
        for_it: whether their codes, which some architectures have negative, speak for the label
            where it holds, `[k]`.
        threshold: of the weighted sum, for the highest F1 where it was fitted.
    """

    latents: np.ndarray
    weights: np.ndarray
    for_it: np.ndarray
    threshold: float

    def predict(self, codes: csc_matrix) -> np.ndarray:
        """Whether the label holds, `[n]`, by codes `[n, d_sae]`."""
        return codes[:, self.latents] @ self.weights > self.threshold


def best_single_latents(codes: csc_matrix, holds: np.ndarray) -> np.ndarray:
    """
    The latent of the highest F1 of firing for each label, `[n_labels]`.

    Args:
        codes: `[n, d_sae]`.
        holds: `[n, n_labels]`.
    """
    fires = csc_matrix(codes != 0, dtype=np.float32)
    right = fires.T @ holds.astype(np.float32)
    fired = np.asarray(fires.sum(axis=0)).ravel()
    f1 = 2 * right / (fired[:, None] + holds.sum(axis=0))
    return np.argmax(f1, axis=0)


def k_sparse_probes(
    codes: csc_matrix, holds: np.ndarray, ks: Sequence[int] = KS
) -> dict[int, SparseProbe]:
    """
    Nested probes on at most k latents each, by k; on fewer where no others tell of the label.

    Args:
        codes: `[n, d_sae]`.
        holds: of one label, `[n]`.
        ks: ascending.
    """
    n = len(holds)
    size = np.sqrt(np.asarray(codes.multiply(codes).mean(axis=0)).ravel())
    inverse = np.divide(1, size, out=np.zeros_like(size), where=size > 0)
    probability = np.full(n, holds.mean())
    latents = np.empty(0, dtype=int)
    found: dict[int, SparseProbe] = {}
    for k in ks:
        gain = np.abs(codes.T @ (holds - probability)) * inverse
        gain[latents] = 0
        best = np.argsort(-gain, kind="stable")[: k - len(latents)]
        latents = np.concatenate([latents, best[gain[best] > 0]])
        x = codes[:, latents].toarray() * inverse[latents]
        weights, intercept = fit_logistic(x, holds[:, None], L2)
        scores = x @ weights[:, 0]
        probability = expit(scores + intercept)
        threshold = best_threshold(scores, holds)
        for_it = (x * weights[:, 0])[holds].sum(axis=0) > 0
        of_codes = weights[:, 0] * inverse[latents]
        found[k] = SparseProbe(latents, of_codes, for_it, threshold)
    return found
