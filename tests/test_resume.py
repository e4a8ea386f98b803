"""Kill -9 in mid-cycle, then resume: bit-identical to a run that was never interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sae_lens.saes.sae import TrainingSAE
from safetensors.torch import load_file

from sae_lens_meta import MetaTrainingSAE
from tests.helpers import meta_config, sparse_batches, train, trainer_for

SETTINGS = {"decomposability_warm_up_steps": 12, "k": 2, "primary_steps_per_cycle": 4}
RUN = """
import os, signal, sys
from itertools import islice
from tests.helpers import *

from tests.test_resume import SETTINGS

folder, kill_after = sys.argv[1], int(sys.argv[2])
def batches():
    for step, batch in enumerate(sparse_batches()):
        if step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
sae = MetaTrainingSAE(meta_config(**SETTINGS))
sae.b_enc.data[:6] = -1.0
trainer_for(sae, batches(), 40, n_checkpoints=3, checkpoint_path=folder,
            dead_feature_window=5, lr_decay_steps=20, adam_beta2=0.99).fit()
"""


def losses_from(folder: Path) -> tuple[MetaTrainingSAE, list[dict[str, float]], dict]:
    """Resumes as SAELens's runner does, on the batches that follow, up to step 40."""
    sae = MetaTrainingSAE(meta_config(**SETTINGS))
    trainer = trainer_for(
        sae, iter(()), 40, dead_feature_window=5, lr_decay_steps=20, adam_beta2=0.99
    )
    trainer.load_trainer_state(folder)
    sae.load_weights_from_checkpoint(folder)
    done = trainer.n_training_samples // 128
    losses = []
    for step, batch in zip(range(40), sparse_batches(), strict=False):
        if step >= done:
            output = trainer.step(batch)
            losses.append({name: loss.item() for name, loss in output.losses.items()})
    return sae, losses, trainer.optimizer.state_dict()["state"]


def test_killed_run_resumes_bit_identically_from_mid_cycle(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), "25"],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert killed.returncode == -signal.SIGKILL
    # checkpoints after steps 11, 21: both within a cycle of 4 primary steps
    early, late = sorted(tmp_path.iterdir(), key=lambda p: int(p.name))
    in_cycle = load_file(late / "sae_weights.safetensors")["steps_in_cycle"].item()
    assert in_cycle not in (0, 4)

    resumed, resumed_losses, resumed_adam = losses_from(late)
    whole, whole_losses, whole_adam = losses_from(early)
    uninterrupted = MetaTrainingSAE(meta_config(**SETTINGS))
    uninterrupted.b_enc.data[:6] = -1.0
    trainer = trainer_for(
        uninterrupted,
        sparse_batches(),
        40,
        dead_feature_window=5,
        lr_decay_steps=20,
        adam_beta2=0.99,
    )
    straight_losses = []
    for _, batch in zip(range(40), sparse_batches(), strict=False):
        output = trainer.step(batch)
        straight_losses.append(
            {name: loss.item() for name, loss in output.losses.items()}
        )

    assert any(step["auxiliary_reconstruction_loss"] > 0 for step in resumed_losses)
    assert resumed_losses == straight_losses[-len(resumed_losses) :]
    assert whole_losses == straight_losses[-len(whole_losses) :]
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
        assert torch.equal(whole.state_dict()[name], tensor), name
    for index, state in trainer.optimizer.state_dict()["state"].items():
        for moment, value in state.items():
            assert torch.equal(resumed_adam[index][moment], value)
            assert torch.equal(whole_adam[index][moment], value)


def test_saved_training_sae_loads_whole_from_disk(tmp_path: Path) -> None:
    sae = train(meta_config(), 7)
    sae.save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path)
    assert isinstance(loaded, MetaTrainingSAE)
    assert loaded.meta_sae is not None
    assert loaded.meta_sae.device == torch.device("cpu")
    for name, tensor in sae.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, check_dtype=False)
    assert not any(t.is_meta for t in loaded.state_dict().values())
    trainer_for(loaded, sparse_batches(), 4).fit()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.rename(p.parent / "elsewhere"), "no checkpoint folder at"),
        (lambda p: (p / "sae_weights.safetensors").unlink(), "has no sae_weights"),
        (
            lambda p: os.truncate(p / "sae_weights.safetensors", 5000),
            "truncated or damaged",
        ),
    ],
)
def test_damaged_checkpoint_is_refused(tmp_path: Path, damage, message: str) -> None:
    folder = tmp_path / "checkpoint"
    sae = train(meta_config(), 2)
    sae.save_model(folder)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        sae.load_weights_from_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"d_sae": 80},
            r"has W_enc of shape \[16, 64\], this run's is \[16, 80\]|W_dec",
        ),
        ({"meta_d_sae": 13}, "meta_sae.* of shape"),
    ],
)
def test_checkpoint_of_another_shape_is_refused(
    tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    train(meta_config(), 2).save_model(tmp_path)
    with pytest.raises(ValueError, match=message):
        MetaTrainingSAE(meta_config(**changes)).load_weights_from_checkpoint(tmp_path)


def test_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=16, d_sae=64)).save_model(
        tmp_path
    )
    with pytest.raises(
        ValueError, match="architecture 'batchtopk'; this run trains 'meta'"
    ):
        MetaTrainingSAE(meta_config()).load_weights_from_checkpoint(tmp_path)


def test_solo_checkpoint_does_not_resume_a_joint_run(tmp_path: Path) -> None:
    train(meta_config(decomposability_coefficient=0), 2).save_model(tmp_path)
    with pytest.raises(ValueError, match="cannot resume each other"):
        MetaTrainingSAE(meta_config()).load_weights_from_checkpoint(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_activations_stop_the_run_and_leave_the_checkpoint(
    tmp_path: Path, bad: float
) -> None:
    def batches():
        for step, batch in enumerate(sparse_batches()):
            if step == 25:
                batch[17, 3] = bad
            yield batch

    sae = MetaTrainingSAE(meta_config())
    trainer = trainer_for(
        sae, batches(), 40, n_checkpoints=3, checkpoint_path=str(tmp_path)
    )
    message = "1 of 128 activations of the batch at training step 25 .first in row 17"
    with pytest.raises(ValueError, match=message):
        trainer.fit()
    last = max(tmp_path.iterdir(), key=lambda p: int(p.name))
    assert int(last.name) == 21 * 128
    for tensor in (
        *load_file(last / "sae_weights.safetensors").values(),
        *sae.parameters(),
    ):
        assert torch.isfinite(tensor).all()
    losses_from_last = MetaTrainingSAE(meta_config())
    losses_from_last.load_weights_from_checkpoint(last)


def test_activations_of_another_width_are_named() -> None:
    trainer = trainer_for(MetaTrainingSAE(meta_config()), sparse_batches(d_in=24), 1)
    with pytest.raises(ValueError, match="24 dimensions but the SAE has d_in=16"):
        trainer.fit()
