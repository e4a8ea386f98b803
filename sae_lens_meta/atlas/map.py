"""
A map of directions: nearest neighbours near each other, in two dimensions.

The first two principal components say where each begins. Then every direction is drawn to its
nearest by cosine and pushed from others drawn at random, by the gradients of t-distributed
closeness as LargeVis has them (Tang et al. 2016, arXiv:1602.00370, equation 6 with
f(x) = 1 / (1 + x^2)).
"""

import numpy as np
import torch
from tqdm.auto import trange

from sae_lens_meta.measures.geometry import nearest_rows

N_NEAREST = 8
N_PUSHED = 5  # others drawn for each neighbour
N_STEPS = 250
MAX_PULL = 4.0  # of one step, in each coordinate


def layout(directions: torch.Tensor, seed: int = 0) -> np.ndarray:
    """
    Places `[n, 2]` for unit directions `[n, d]`, within -1 and 1; the same for the same seed.

    Where neighbours are near says something, and where far ones are does not.
    """
    n = len(directions)
    if n < 3:
        return np.stack([np.linspace(-0.5, 0.5, n), np.zeros(n)], axis=1)
    random = np.random.default_rng(seed)
    places = _principal(directions) + random.normal(0, 1e-3, (n, 2))
    _, nearest = nearest_rows(directions, directions, N_NEAREST, "Neighbours")
    head = np.repeat(np.arange(n), nearest.shape[1])
    tail = nearest.flatten().numpy()
    for step in trange(N_STEPS, desc="Drawing the map", leave=False):
        rate = 1 - step / N_STEPS
        pulls = np.zeros_like(places)
        pull = _pull(places[tail] - places[head])
        np.add.at(pulls, head, pull)
        np.add.at(pulls, tail, -pull)
        for _ in range(N_PUSHED):
            away = random.integers(0, n, len(head))
            np.add.at(pulls, head, _push(places[head] - places[away]))
        places += 0.1 * rate * np.clip(pulls, -MAX_PULL, MAX_PULL)
    return _fitted(places)


def _principal(directions: torch.Tensor) -> np.ndarray:
    """The first two principal components, a few units wide."""
    centred = (directions - directions.mean(dim=0)).double()
    energies = torch.linalg.eigh(centred.t() @ centred)
    first = (centred @ energies.eigenvectors[:, -2:]).flip(1).numpy()
    return first / first.std(axis=0).clip(1e-12) * 5


def _pull(difference: np.ndarray) -> np.ndarray:
    distance = (difference**2).sum(axis=1, keepdims=True)
    return 2 * difference / (1 + distance)


def _push(difference: np.ndarray) -> np.ndarray:
    distance = (difference**2).sum(axis=1, keepdims=True)
    return np.clip(2 * difference / ((0.1 + distance) * (1 + distance)), -4, 4)


def _fitted(places: np.ndarray) -> np.ndarray:
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - (low + high) / 2) / max((high - low).max() / 2, 1e-12)
