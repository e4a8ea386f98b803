"""Kill -9 in mid-cycle, then resume: bit-identical to a run that was never interrupted."""

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)
from sae_lens.saes.sae import TrainingSAE, TrainStepInput, TrainStepOutput
from safetensors.torch import load_file

from sae_lens_meta import MetaTrainingSAE
from tests.helpers import (
    BATCH,
    meta_config,
    sparse_batches,
    tiny_model,
    train,
    trainer_for,
)

SETTINGS = {"decomposability_warm_up_steps": 12, "k": 2, "primary_steps_per_cycle": 4}
N_STEPS = 40


class ReplayStore:
    """Stands in for SAELens's activation store: the same batches again, from any step."""

    exclude_special_tokens = None

    def __init__(self, first_step: int = 0, kill_at: int | None = None):
        self.step, self.kill_at = first_step, kill_at
        self._batches = islice(sparse_batches(), first_step, None)

    def __next__(self) -> torch.Tensor:
        if self.step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.step += 1
        return next(self._batches)

    def save_to_checkpoint(self, checkpoint_path: Path) -> None: ...

    def load_from_checkpoint(self, checkpoint_path: Path) -> None: ...


def run(
    folder: Path, resume_from: Path | None = None, kill_at: int | None = None
) -> list[dict[str, float]]:
    """SAELens's own runner on replayed batches; its final checkpoint is in `folder`."""
    model = tiny_model()
    cfg = LanguageModelSAERunnerConfig(
        sae=meta_config(**SETTINGS),
        hook_name="blocks.0.hook_resid_pre",
        context_size=8,
        training_tokens=N_STEPS * BATCH,
        train_batch_size_tokens=BATCH,
        adam_beta2=0.99,
        lr=1e-3,
        lr_decay_steps=20,
        dead_feature_window=5,
        n_checkpoints=3,
        save_final_checkpoint=True,
        checkpoint_path=str(folder),
        output_path=None,
        resume_from_checkpoint=str(resume_from) if resume_from else None,
        logger=LoggingConfig(log_to_wandb=False, wandb_id="run"),
        verbose=False,
    )
    text = Dataset.from_dict({"tokens": [[1] * 8]})
    runner = LanguageModelSAETrainingRunner(
        cfg, override_dataset=text, override_model=model
    )
    done = int(resume_from.name) // BATCH if resume_from else 0
    store: Any = ReplayStore(done, kill_at)
    runner.activations_store = store
    assert isinstance(runner.sae, MetaTrainingSAE)
    runner.sae.b_enc.data[:6] = -1.0  # these die, so that the auxiliary loss takes part
    losses = []
    step = runner.sae.training_forward_pass

    def recorded(step_input: TrainStepInput) -> TrainStepOutput:
        output = step(step_input)
        losses.append({name: loss.item() for name, loss in output.losses.items()})
        return output

    runner.sae.training_forward_pass = recorded
    runner.run()
    return losses


def test_killed_run_resumes_bit_identically_from_mid_cycle(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.test_resume import run\n"
    code += "run(Path(sys.argv[1]), kill_at=25)"
    killed = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "killed"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert killed.returncode == -signal.SIGKILL
    last = max((tmp_path / "killed" / "run").iterdir(), key=lambda p: int(p.name))
    in_cycle = load_file(last / "sae_weights.safetensors")["steps_in_cycle"].item()
    assert in_cycle not in (0, 4)

    resumed = run(tmp_path / "resumed", resume_from=last)
    straight = run(tmp_path / "straight")
    assert len(straight) == N_STEPS
    assert len(resumed) == N_STEPS - int(last.name) // BATCH
    assert any(step["auxiliary_reconstruction_loss"] > 0 for step in resumed)
    assert resumed == straight[-len(resumed) :]
    ends = [
        tmp_path / name / "run" / f"final_{N_STEPS * BATCH}"
        for name in ("resumed", "straight")
    ]
    weights = [load_file(end / "sae_weights.safetensors") for end in ends]
    assert {"meta_sae.W_dec", "meta_sae.exp_avg_W_enc", "steps_in_cycle"} <= set(
        weights[0]
    )
    for name, tensor in weights[1].items():
        assert torch.equal(weights[0][name], tensor), name
    adam = [torch.load(end / "trainer_state.pt")["optimizer"]["state"] for end in ends]
    for index, state in adam[1].items():
        for moment, value in state.items():
            assert torch.equal(adam[0][index][moment], value)


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
        (lambda p: os.truncate(p / "cfg.json", 30), "cfg.json is not the config"),
        (lambda p: (p / "cfg.json").write_text("{}"), "cfg.json is not the config"),
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
    BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=16, d_sae=64)).save_model(
        tmp_path
    )
    with pytest.raises(
        ValueError, match="architecture 'batchtopk'; this run trains 'meta'"
    ):
        MetaTrainingSAE(meta_config()).load_weights_from_checkpoint(tmp_path)


@pytest.mark.parametrize(("saved", "resuming"), [(0, 0.3), (0.3, 0)])
def test_solo_and_joint_do_not_resume_each_other(
    tmp_path: Path, saved: float, resuming: float
) -> None:
    train(meta_config(decomposability_coefficient=saved), 2).save_model(tmp_path)
    sae = MetaTrainingSAE(meta_config(decomposability_coefficient=resuming))
    with pytest.raises(ValueError, match="cannot resume each other"):
        sae.load_weights_from_checkpoint(tmp_path)


def test_a_shorter_cycle_after_a_resume_still_trains_the_meta_sae(
    tmp_path: Path,
) -> None:
    train(meta_config(primary_steps_per_cycle=20), 8).save_model(tmp_path)
    sae = MetaTrainingSAE(meta_config(primary_steps_per_cycle=5))
    sae.load_weights_from_checkpoint(tmp_path)
    trainer_for(sae, sparse_batches(), 1).fit()
    assert sae.meta_sae is not None
    assert int(sae.meta_sae.adam_step) == 2


def test_counters_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    sae = train(meta_config(), 2)
    assert sae.meta_sae is not None
    sae.meta_sae.adam_step.fill_(70_000)
    sae.save_model(tmp_path)
    with pytest.raises(ValueError, match="adam_step does not fit into float16"):
        TrainingSAE.load_from_disk(tmp_path, dtype="float16")
    loaded = TrainingSAE.load_from_disk(tmp_path)
    assert loaded.state_dict()["meta_sae.adam_step"] == 70_000


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


def test_a_batch_of_which_nothing_is_kept_is_refused() -> None:
    sae = MetaTrainingSAE(meta_config(k=0.3))
    trainer = trainer_for(sae, sparse_batches(n=3), 1, batch_size=3)
    with pytest.raises(ValueError, match="k=0.3 keeps no .* Set train_.* to 4 or more"):
        trainer.fit()
    trainer_for(sae, sparse_batches(n=4), 1, batch_size=4).fit()


def test_activations_of_another_width_are_named() -> None:
    trainer = trainer_for(MetaTrainingSAE(meta_config()), sparse_batches(d_in=24), 1)
    with pytest.raises(ValueError, match="24 dimensions but the SAE has d_in=16"):
        trainer.fit()
