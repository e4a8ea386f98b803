"""The ceiling: what a logistic probe reads of the labels off the activations themselves."""

from dataclasses import dataclass

import numpy as np

from sae_lens_meta.probing.logistic import best_threshold, fit_logistic

L2 = 3e-3
EPS = 1e-6


@dataclass
class DenseProbes:
    """
    A logistic probe for each label, on normalised activations.

    Attributes:
        center: their mean where the probes were fitted, `[d_in]`.
        directions: `[d_in, n_labels]`, free of the mean over dimensions, which normalised
            activations do not have.
        thresholds: of the projection, for the highest F1 where they were fitted, `[n_labels]`.
    """

    center: np.ndarray
    directions: np.ndarray
    thresholds: np.ndarray

    def projections(self, x: np.ndarray) -> np.ndarray:
        """How far along each direction activations lie from their mean, `[n, n_labels]`."""
        return (x - self.center) @ self.directions

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Whether each label holds, `[n, n_labels]`."""
        return self.projections(x) > self.thresholds


def fit_dense_probes(x: np.ndarray, holds: np.ndarray) -> DenseProbes:
    """
    Fits them, all labels at once.

    Args:
        x: normalised activations, `[n, d_in]`.
        holds: whether each label holds, `[n, n_labels]`.
    """
    center, spread = x.mean(axis=0), x.std(axis=0) + EPS
    weights, _ = fit_logistic((x - center) / spread, holds, L2)
    directions = weights / spread[:, None]
    directions = (directions - directions.mean(axis=0)).astype(np.float32)
    probes = DenseProbes(center, directions, np.zeros(holds.shape[1]))
    found = probes.projections(x).T
    probes.thresholds = np.array(
        [best_threshold(s, y) for s, y in zip(found, holds.T, strict=True)]
    )
    return probes
