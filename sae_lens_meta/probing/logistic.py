"""Logistic regression, of several labels at a time, and the threshold of the best F1."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

MAX_STEPS = 200


def fit_logistic(
    x: np.ndarray, y: np.ndarray, l2: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Weights `[d, n_labels]` and intercepts `[n_labels]` of least mean log loss, by L-BFGS.

    Args:
        x: `[n, d]`, its columns of like size.
        y: whether each label holds, `[n, n_labels]`.
        l2: the loss has `l2 / 2` of the squared weights added; the intercepts are free.
    """
    d, m = x.shape[1], y.shape[1]
    target = y.astype(x.dtype)
    rates = target.mean(axis=0).clip(1e-6, 1 - 1e-6)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = flat[:-m].reshape(d, m), flat[-m:]
        logits = x @ weights.astype(x.dtype) + intercept.astype(x.dtype)
        # log(1 + e^z) - y z, whose derivative is the probability less y
        value = (np.logaddexp(0, logits) - target * logits).mean(axis=0).sum()
        error = (expit(logits) - target) / len(x)
        gradient = np.vstack([x.T @ error + l2 * weights, error.sum(axis=0)])
        return float(value + l2 / 2 * (weights**2).sum()), gradient.ravel().astype(
            float
        )

    start = np.concatenate([np.zeros(d * m), np.log(rates / (1 - rates))])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS}
    ).x
    return found[:-m].reshape(d, m), found[-m:]


def best_threshold(scores: np.ndarray, holds: np.ndarray) -> float:
    """The threshold above which to say that a label holds, for the highest F1 on these `[n]`."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    right = np.cumsum(holds[order])
    f1 = 2 * right / (np.arange(1, len(ranked) + 1) + holds.sum())
    # equal scores are on the same side
    f1[:-1][ranked[:-1] == ranked[1:]] = -1
    last = int(np.argmax(f1))
    if last + 1 == len(ranked):
        return -np.inf
    return float((ranked[last] + ranked[last + 1]) / 2)
