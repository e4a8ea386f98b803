"""The shapes that are timed, and a trainer of each kind at a shape."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig

# "joint" selects meta latents in every step, as in the paper; "cycle" holds the selection
KINDS = ("stock", "solo", "joint", "cycle")
PENALTIES = ("orthogonality", "implied_overlap")
CYCLE = 10  # primary steps to a meta phase of 5, as in the paper


@dataclass
class Shape:
    """Sizes of a joint training; `batch` in tokens."""

    d_in: int
    d_sae: int
    meta_d_sae: int
    k: int
    meta_k: int
    batch: int


SHAPES = {
    "demo": Shape(576, 4096, 368, 32, 4, 2048),
    "gpt2-large": Shape(1280, 20480, 1800, 64, 4, 4096),
    "gemma-1024": Shape(3584, 65536, 5000, 100, 8, 1024),
    "gemma-4096": Shape(3584, 65536, 5000, 100, 8, 4096),
}


def activations(shape: Shape) -> torch.Tensor:
    """One batch `[batch, d_in]` of sparse mixtures of 256 directions, and some noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(256, shape.d_in, generator=generator)
    codes = torch.rand(shape.batch, 256, generator=generator)
    codes *= torch.rand(shape.batch, 256, generator=generator) < 0.1
    noise = torch.randn(shape.batch, shape.d_in, generator=generator)
    return codes @ directions + 0.1 * noise


def sae_of(kind: str, shape: Shape, device: str = "cpu") -> TrainingSAE[Any]:
    sizes: dict[str, Any] = {"d_in": shape.d_in, "d_sae": shape.d_sae, "k": shape.k}
    sizes["device"] = device
    if kind == "stock":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**sizes))
    return MetaTrainingSAE(
        MetaTrainingSAEConfig(
            **sizes,
            meta_d_sae=shape.meta_d_sae,
            meta_k=shape.meta_k,
            penalty=kind if kind in PENALTIES else "decomposability",
            decomposability_coefficient=0 if kind == "solo" else 0.3,
            meta_selection="cycle" if kind == "cycle" else "every_step",
            primary_steps_per_cycle=CYCLE,
            meta_steps_per_cycle=5,
        )
    )


def trainer_of(
    sae: TrainingSAE[Any], shape: Shape, autocast: bool = False
) -> SAETrainer[Any, Any]:
    cfg = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=shape.batch,
        lr_end=3e-4,
        device=str(sae.device),
        autocast=autocast,
    )
    batch = activations(shape).to(sae.device)
    batches: Iterator[torch.Tensor] = itertools.repeat(batch)
    return SAETrainer(cfg, sae, batches)


def trainers_that_share_weights(
    shape: Shape,
    device: str = "cpu",
    autocast: bool = False,
    kinds: Sequence[str] = KINDS,
) -> dict[str, SAETrainer[Any, Any]]:
    """One trainer of each kind; four sets of weights and moments would not fit for Gemma."""
    moments: dict[str, dict[str, torch.Tensor]] = {}
    trainers: dict[str, SAETrainer[Any, Any]] = {}
    for kind in kinds:
        sae = sae_of(kind, shape, device)
        if trainers:
            first = trainers[kinds[0]].sae
            for name, parameter in sae.named_parameters():
                parameter.data = first.get_parameter(name).data
        trainers[kind] = trainer_of(sae, shape, autocast)
        for name, parameter in sae.named_parameters():
            if name not in moments:
                moments[name] = {
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            state = {"step": torch.tensor(0.0), **moments[name]}
            trainers[kind].optimizer.state[parameter] = state
    return trainers
