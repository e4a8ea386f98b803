"""The other penalties in the training step, and in checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig
from sae_lens_meta.training.architectures import (
    MetaTopKTrainingSAE,
    MetaTopKTrainingSAEConfig,
)
from sae_lens_meta.training.implied_overlap import ImpliedOverlap
from sae_lens_meta.training.orthogonality import Orthogonality

D_IN, D_SAE, BATCH = 16, 48, 256
CLASSES = {
    "meta": (MetaTrainingSAE, MetaTrainingSAEConfig),
    "meta_topk": (MetaTopKTrainingSAE, MetaTopKTrainingSAEConfig),
}
KINDS = {"orthogonality": Orthogonality, "implied_overlap": ImpliedOverlap}
WITH_SCHEDULES: dict[str, Any] = {
    "resample_every": 15,
    "resample_until": 280,
    "k_start": 12.0,
    "k_anneal_steps": 300,
}
HALF, END = 250, 320  # parents are settled at the 200th step


def new_sae(architecture: str = "meta", **settings: Any) -> Any:
    sae_class, config_class = CLASSES[architecture]
    settings = {"d_in": D_IN, "d_sae": D_SAE, "k": 4, "meta_d_sae": 6} | settings
    settings = {"meta_k": 2, "init_seed": 3} | settings
    return sae_class(config_class(**settings))


def batch(step: int) -> torch.Tensor:
    """Sparse mixtures of 24 directions, some of which come only with others."""
    generator = torch.Generator().manual_seed(step)
    fires = torch.rand(BATCH, 24, generator=generator) < 0.2
    fires[:, 12:] &= fires[:, :12]
    directions = torch.randn(24, D_IN, generator=torch.Generator().manual_seed(-1 % 99))
    return fires.float() @ directions


def trainer_of(sae: Any, steps: int = 200) -> SAETrainer[Any, Any]:
    cfg = SAETrainerConfig(
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=3e-3,
        lr_end=3e-3,
        dead_feature_window=5,
    )
    return SAETrainer(cfg, sae, iter(()))


def train(trainer: SAETrainer[Any, Any], first: int, last: int) -> None:
    for step in range(first, last):
        trainer.step(batch(step))
        trainer.n_training_steps += 1


def forward(sae: Any, step: int, name: str, coefficient: float) -> Any:
    return sae.training_forward_pass(
        TrainStepInput(
            sae_in=batch(step),
            coefficients={name: coefficient},
            dead_neuron_mask=None,
            n_training_steps=step,
            is_logging_step=False,
        )
    )


@pytest.mark.parametrize("architecture", CLASSES)
@pytest.mark.parametrize("penalty", KINDS)
def test_the_loss_is_the_stock_one_and_the_mean_penalty(
    architecture: str, penalty: str
) -> None:
    sae = new_sae(architecture, penalty=penalty)
    solo = new_sae(architecture, decomposability_coefficient=0)
    assert sae.meta_sae is None and isinstance(sae.overlap, KINDS[penalty])
    assert solo.meta_sae is None and solo.overlap is None
    assert penalty in sae.get_coefficients()
    assert penalty not in solo.get_coefficients()
    train(trainer_of(sae), 0, 301)  # first watched at the 100th, then settled
    sae.zero_grad()
    weights = {n: v for n, v in sae.state_dict().items() if "overlap" not in n}
    solo.load_state_dict(weights)
    output, stock = forward(sae, 301, penalty, 0.7), forward(solo, 301, penalty, 0.7)
    expected = 0.7 * D_IN * sae.overlap.penalties(sae.W_dec).mean()
    assert expected > 0
    torch.testing.assert_close(output.losses[f"{penalty}_loss"], expected)
    torch.testing.assert_close(output.loss, stock.loss + expected)
    output.loss.backward()
    (gradient,) = torch.autograd.grad(expected, sae.W_dec)
    stock.loss.backward()
    torch.testing.assert_close(
        sae.W_dec.grad, solo.W_dec.grad + gradient, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"penalty": "orthogonality"},
        {"penalty": "implied_overlap"},
        WITH_SCHEDULES,
        {"penalty": "implied_overlap", **WITH_SCHEDULES},
    ],
)
def test_a_resumed_training_ends_bit_for_bit_where_the_whole_one_does(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = trainer_of(new_sae(**settings), END)
    train(whole, 0, END)
    part = trainer_of(new_sae(**settings), END)
    train(part, 0, HALF)
    if settings.get("penalty") == "implied_overlap":
        assert part.sae.overlap.is_parent.any()
    if "k_start" in settings:
        assert settings["k_start"] > part.sae.k_at(HALF) > 4
    part.save_checkpoint("half", tmp_path)
    other: dict[str, Any] = settings | {"init_seed": 4}
    resumed = trainer_of(new_sae(**other), END)
    resumed.sae.load_weights_from_checkpoint(tmp_path / "half")
    resumed.load_trainer_state(tmp_path / "half")
    # draws follow the seed of the run that goes on
    resumed.sae.cfg.init_seed = 3
    train(resumed, HALF, END)
    for name, tensor in whole.sae.state_dict().items():
        torch.testing.assert_close(
            resumed.sae.state_dict()[name], tensor, rtol=0, atol=0, msg=name
        )


@pytest.mark.parametrize("settings", [{"penalty": n} for n in KINDS] + [WITH_SCHEDULES])
def test_what_is_exported_is_a_plain_sae(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    trainer = trainer_of(new_sae(**settings))
    train(trainer, 0, END if settings is WITH_SCHEDULES else 60)
    trainer.sae.save_inference_model(tmp_path)
    assert (tmp_path / "meta").exists() == ("penalty" not in settings)
    sae = SAE.load_from_disk(tmp_path)
    assert set(sae.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
    details: Any = sae.cfg.metadata.training_architecture_details
    for name, value in settings.items():
        assert details[name] == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": "ortho"}, "penalty must be one of decomposability, orthogonality"),
        (
            {"penalty": "implied_overlap", "dtype": "bfloat16"},
            "dtype must be float32 or float64 with penalty implied_overlap, got bfloat16",
        ),
        ({"resample_every": -1}, "resample_every must be at least 0, got -1"),
        ({"resample_every": 2.5}, "resample_every must be a whole number"),
        ({"k_start": 0.0, "k_anneal_steps": 5}, "k_start must be above 0"),
        ({"k_start": 9.0}, "k_anneal_steps must be at least 1 where k_start is given"),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        new_sae(**settings)


def test_a_checkpoint_of_another_penalty_is_refused(tmp_path: Path) -> None:
    new_sae(penalty="orthogonality").save_model(tmp_path)
    with pytest.raises(ValueError, match="is of penalty='orthogonality'"):
        new_sae().load_weights_from_checkpoint(tmp_path)
    new_sae(**WITH_SCHEDULES).save_model(tmp_path)
    with pytest.raises(ValueError, match="steps_taken"):
        new_sae().load_weights_from_checkpoint(tmp_path)
