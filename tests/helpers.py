"""What several test files share."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepInput, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig

D_IN, D_SAE, BATCH = 16, 64, 128


def meta_config(**changes: Any) -> MetaTrainingSAEConfig:
    settings: dict[str, Any] = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "k": 4,
        "meta_d_sae": 12,
        "meta_k": 2,
        "primary_steps_per_cycle": 3,
        "meta_steps_per_cycle": 2,
        "meta_lr": 1e-2,
    }
    return MetaTrainingSAEConfig(**settings | changes)


def sparse_batches(seed: int = 0, d_in: int = D_IN, n: int = BATCH) -> Iterator[Any]:
    """Endless batches of sparse mixtures of 96 fixed directions, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(96, d_in, generator=torch.Generator().manual_seed(99))
    while True:
        codes = torch.rand(n, 96, generator=generator)
        codes = codes * (torch.rand(n, 96, generator=generator) < 0.05)
        noise = torch.randn(n, d_in, generator=generator)
        yield codes @ directions + 0.02 * noise


def trainer_for(
    sae: TrainingSAE[Any],
    batches: Iterator[torch.Tensor],
    n_steps: int,
    batch_size: int = BATCH,
    **changes: Any,
) -> SAETrainer[Any, Any]:
    settings: dict[str, Any] = {"lr": 1e-3, "lr_end": 1e-3, "dead_feature_window": 20}
    cfg = SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        **settings | changes,
    )
    return SAETrainer(cfg, sae, batches)


def train(cfg: MetaTrainingSAEConfig, n_steps: int, **changes: Any) -> MetaTrainingSAE:
    sae = MetaTrainingSAE(cfg)
    trainer_for(sae, sparse_batches(d_in=cfg.d_in), n_steps, **changes).fit()
    return sae


def forward(
    sae: TrainingSAE[Any],
    batch: torch.Tensor,
    dead: torch.Tensor | None = None,
    coefficient: float = 0.3,
) -> TrainStepOutput:
    return sae.training_forward_pass(
        TrainStepInput(batch, {"decomposability": coefficient}, dead, 0, False)
    )


def tiny_model(n_ctx: int = 8) -> HookedTransformer:
    """A random language model of width 16."""
    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=2,
            d_model=16,
            n_ctx=n_ctx,
            d_head=4,
            n_heads=4,
            d_vocab=11,
            act_fn="relu",
        )
    )


@cache
def phi_by_chance(a: int, b: int, n: int) -> float:
    """Expected |phi| of independent latents that fire on `a` and `b` of `n` tokens."""
    together = np.arange(max(0, a + b - n), min(a, b) + 1)
    # hypergeometric: each probability by its ratio to the one before, scipy's pmf being slow
    k = together[:-1].astype(float)
    ratios = (a - k) * (b - k) / ((k + 1) * (n - a - b + k + 1))
    logs = np.concatenate([[0.0], np.log(ratios).cumsum()])
    probabilities = np.exp(logs - logs.max())
    probabilities /= probabilities.sum()
    deviation = probabilities @ np.abs(n * together - a * b)
    return float(deviation / np.sqrt(float(a * (n - a)) * float(b * (n - b))))
