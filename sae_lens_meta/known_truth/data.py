"""Kinds of made-up activations, each with its true features (`sae_lens.synthetic`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from sae_lens.synthetic import (
    FoldedNormalMagnitudeConfig,
    HierarchyConfig,
    LinearMagnitudeConfig,
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
    ZipfianFiringProbabilityConfig,
)
from sae_lens.synthetic.hierarchy import HierarchyNode
from tqdm.auto import tqdm

# batches that are drawn at once, since a hierarchy is walked once for all of them, and how many
# features of samples that may be
BATCHES_AT_ONCE, VALUES_AT_ONCE = 32, 1 << 23
SAMPLES_FOR_SCALE = 10_000


def _trees(depth: int, branching: int, **changes: Any) -> dict[str, Any]:
    """As many trees of this shape as 500 features make."""
    in_a_tree = sum(branching**level for level in range(depth + 1))
    return {
        "hierarchy": HierarchyConfig(
            total_root_nodes=500 // in_a_tree,
            branching_factor=branching,
            max_depth=depth,
            compensate_probabilities=True,
            **changes,
        )
    }


SMALL: dict[str, Any] = {
    "num_features": 512,
    "hidden_dim": 64,
    "firing_probability": ZipfianFiringProbabilityConfig(
        exponent=1.0, max_prob=0.3, min_prob=0.005
    ),
    "std_firing_magnitudes": 0.3,
    "bias": False,
}
# As SAELens's docs give it (arXiv:2602.14687), but for the seed, which is a study's.
SYNTHSAEBENCH: dict[str, Any] = {
    "num_features": 16_384,
    "hidden_dim": 768,
    "firing_probability": ZipfianFiringProbabilityConfig(
        exponent=0.5, max_prob=0.4, min_prob=5e-4
    ),
    "mean_firing_magnitudes": LinearMagnitudeConfig(start=5.0, end=4.0),
    "std_firing_magnitudes": FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
    "bias": 0.5,
    "orthogonalization": OrthogonalizationConfig(num_steps=100, lr=3e-4),
    "correlation": LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
    "hierarchy": HierarchyConfig(
        total_root_nodes=128,
        branching_factor=4,
        max_depth=3,
        mutually_exclusive_portion=1.0,
        mutually_exclusive_min_depth=0,
        compensate_probabilities=True,
        scale_children_by_parent=True,
    ),
}
KINDS: dict[str, dict[str, Any]] = {
    "independent": SMALL,
    "correlated": SMALL
    | {"correlation": LowRankCorrelationConfig(rank=16, correlation_scale=0.1)},
    "hierarchy_1": SMALL | _trees(1, 4),
    "hierarchy_2": SMALL | _trees(2, 3),
    "hierarchy_3": SMALL | _trees(3, 2),
    "exclusive": SMALL | _trees(1, 4, mutually_exclusive_portion=1.0),
    "exclusive_2": SMALL | _trees(2, 3, mutually_exclusive_portion=1.0),
    "exclusive_3": SMALL | _trees(3, 2, mutually_exclusive_portion=1.0),
    "scaled": SMALL | _trees(2, 3, scale_children_by_parent=True),
    "synthsaebench_16k": SYNTHSAEBENCH,
}


@dataclass(frozen=True)
class Samples:
    """
    Activations, and what they are made of.

    Attributes:
        activations: `[n, d_in]`.
        features: how strongly each true feature fires, `[n, n_features]`; 0 where it does not.
    """

    activations: torch.Tensor
    features: torch.Tensor


class KnownTruth:
    """
    Activations of one kind and seed, scaled to a mean square of 1 in a dimension.

    That is the scale in which a penalty's coefficient is the paper's. The batches of a seed are
    the same in every training, whatever that draws besides.

    Attributes:
        directions: true features, `[n_features, d_in]`, of norm 1.
        pairs: parents with their children, as rows of `[n_pairs, 2]`; none without a hierarchy.
    """

    def __init__(self, kind: str, seed: int, device: str = "cpu"):
        """
        Raises:
            ValueError: if there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(
                f"There is no kind of data {kind!r}. Give one of {', '.join(KINDS)}."
            )
        self.seed = seed
        self._model = _model(kind, seed, device)
        self.directions = self._model.feature_dict.feature_vectors.detach()
        hierarchy = self._model.hierarchy
        roots = list(hierarchy.roots) if hierarchy is not None else []
        pairs = [pair for root in roots for pair in _family(root)]
        self.pairs = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)

    @property
    def d_in(self) -> int:
        """Width of an activation."""
        return self.directions.shape[1]

    def test_samples(self, n: int) -> Samples:
        """`n` samples that no training sees."""
        drawn = self._drawn(n, -1)
        return Samples(self.scale * drawn.activations, drawn.features)

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Batches `[batch_size, d_in]` without end."""
        number, n = 0, samples_at_once(len(self.directions), batch_size)
        while True:
            drawn = self._drawn(n, number)
            yield from (self.scale * drawn.activations).split(batch_size)
            number += 1

    @cached_property
    def scale(self) -> float:
        """What activations are multiplied by, taken from samples of its own."""
        drawn = self._drawn(SAMPLES_FOR_SCALE, -2).activations
        return float(drawn.pow(2).mean().rsqrt())

    @torch.no_grad()
    def _drawn(self, n: int, part: int) -> Samples:
        with torch.random.fork_rng():
            # a prime, so that no part of a seed is a part of another
            torch.manual_seed(1_000_003 * (self.seed + 1) + part)
            return Samples(*self._model.sample_with_features(n))


def samples_at_once(n_features: int, batch_size: int) -> int:
    """Samples that are drawn at once for batches of `batch_size`."""
    n_batches = VALUES_AT_ONCE // (n_features * batch_size)
    return batch_size * max(1, min(BATCHES_AT_ONCE, n_batches))


@lru_cache(maxsize=8)
def _model(kind: str, seed: int, device: str) -> SyntheticModel:
    """Kept, since turning 16,384 features away from each other takes a processor long."""
    if "orthogonalization" in KINDS[kind]:
        n = KINDS[kind]["num_features"]
        tqdm.write(f"Turning the {n:,} features of {kind} away from each other ...")
    cfg = SyntheticModelConfig(**KINDS[kind], seed=seed)
    return SyntheticModel(cfg, device=device)


def _family(node: HierarchyNode) -> Iterator[tuple[int, int]]:
    """Every parent with each of its children, from `node` downwards."""
    for child in node.children:
        if node.feature_index is not None and child.feature_index is not None:
            yield node.feature_index, child.feature_index
        yield from _family(child)
