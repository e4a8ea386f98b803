"""Kill -9 in mid-cycle, then resume: bit-identical to a run that was never interrupted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
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
from sae_lens.constants import (
    ACTIVATIONS_STORE_STATE_FILENAME,
    SAE_WEIGHTS_FILENAME,
)
from sae_lens.saes.sae import TrainingSAE, TrainStepInput, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training.resume import check_resume
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

    def save_to_checkpoint(self, checkpoint_path: Path) -> None:
        place = {"n_dataset_processed": torch.tensor(0)}
        save_file(place, checkpoint_path / ACTIVATIONS_STORE_STATE_FILENAME)

    def load_from_checkpoint(self, checkpoint_path: Path) -> None: ...


def runner_config(folder: Path, **changes: Any) -> LanguageModelSAERunnerConfig[Any]:
    settings: dict[str, Any] = {
        "sae": meta_config(**SETTINGS),
        "hook_name": "blocks.0.hook_resid_pre",
        "context_size": 8,
        "training_tokens": N_STEPS * BATCH,
        "train_batch_size_tokens": BATCH,
        "adam_beta2": 0.99,
        "lr": 1e-3,
        "lr_decay_steps": 20,
        "dead_feature_window": 5,
        "n_checkpoints": 3,
        "save_final_checkpoint": True,
        "checkpoint_path": str(folder),
        "output_path": None,
        "n_batches_for_norm_estimate": 2,
        "logger": LoggingConfig(log_to_wandb=False, wandb_id="run"),
        "verbose": False,
    }
    return LanguageModelSAERunnerConfig(**settings | changes)


def run(
    cfg: LanguageModelSAERunnerConfig[Any], kill_at: int | None = None
) -> list[dict[str, float]]:
    """Losses of SAELens's own runner on replayed batches."""
    model = tiny_model()
    resume_from = cfg.resume_from_checkpoint
    text = Dataset.from_dict({"tokens": [[1] * 8]})
    runner = LanguageModelSAETrainingRunner(
        cfg, override_dataset=text, override_model=model
    )
    done = int(Path(resume_from).name) // BATCH if resume_from else 0
    if resume_from and cfg.sae.normalize_activations == "expected_average_only_in":
        done += cfg.n_batches_for_norm_estimate  # which the first run read before
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


@pytest.mark.slow
def test_killed_run_resumes_bit_identically_from_mid_cycle(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path\n"
    code += "from tests.test_resume import run, runner_config\n"
    code += "run(runner_config(Path(sys.argv[1])), kill_at=25)"
    killed = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "killed"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert killed.returncode == -signal.SIGKILL
    last = max((tmp_path / "killed" / "run").iterdir(), key=lambda p: int(p.name))
    in_cycle = load_file(last / "sae_weights.safetensors")["steps_in_cycle"].item()
    assert in_cycle not in (0, 4)

    resumed = run(runner_config(tmp_path / "resumed", resume_from_checkpoint=str(last)))
    straight = run(runner_config(tmp_path / "straight"))
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One from the middle of a training."""
    folder = tmp_path_factory.mktemp("checkpoint")
    run(runner_config(folder))
    return min((folder / "run").iterdir(), key=lambda p: len(p.name))


def test_an_unchanged_run_resumes_without_a_word(checkpoint: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_resume(
            runner_config(Path("elsewhere"), resume_from_checkpoint=str(checkpoint))
        )


OTHER_SAES: list[tuple[str, Any]] = [
    ("d_in", 24),
    ("d_sae", 80),
    ("k", 3),
    ("meta_d_sae", 13),
    ("meta_k", 3),
    ("dtype", "bfloat16"),
    ("normalize_activations", "none"),
    ("apply_b_dec_to_input", False),
    ("rescale_acts_by_decoder_norm", False),
]
OTHER_ACTIVATIONS: list[tuple[str, Any]] = [
    ("model_name", "gpt2"),
    ("model_class_name", "AutoModelForCausalLM"),
    ("model_from_pretrained_kwargs", {"center_writing_weights": True}),
    ("hook_name", "blocks.1.hook_resid_pre"),
    ("hook_head_index", 2),
    ("context_size", 7),
    ("seqpos_slice", (1, 7)),
    ("prepend_bos", False),
    ("exclude_special_tokens", True),
    ("sequence_separator_token", "eos"),
    ("disable_concat_sequences", True),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *OTHER_SAES,
        *OTHER_ACTIVATIONS,
        ("dtype of the runner", "bfloat16"),
        ("model_kwargs", {"stop_at_layer": 1}),
        ("use_chat_formatting", True),
        ("autocast_lm", True),
    ],
)
def test_another_sae_or_other_activations_are_refused(
    checkpoint: Path, name: str, value: Any
) -> None:
    sae, runner = meta_config(**SETTINGS), {}
    if name in dict(OTHER_SAES):
        sae = meta_config(**SETTINGS | {name: value})
    else:
        name = name.removesuffix(" of the runner")
        runner = {name: value, "is_dataset_tokenized": name != "use_chat_formatting"}
    cfg = runner_config(
        Path("c"), sae=sae, resume_from_checkpoint=str(checkpoint), **runner
    )
    now = list(value) if isinstance(value, tuple) else value
    message = rf"is of {name}=.*, this run has {name}={re.escape(repr(now))}\. .*set {name} as it"
    with pytest.raises(ValueError, match=message):
        check_resume(cfg)


@pytest.mark.parametrize(("name", "value"), [*OTHER_SAES, *OTHER_ACTIVATIONS])
def test_they_are_refused_from_python_too(
    checkpoint: Path, name: str, value: Any
) -> None:
    is_of_sae = name in dict(OTHER_SAES)
    sae = MetaTrainingSAE(
        meta_config(**SETTINGS | ({name: value} if is_of_sae else {}))
    )
    cfg = runner_config(Path("c"))
    for one in dict(OTHER_ACTIVATIONS):
        sae.cfg.metadata[one] = getattr(cfg, one)
    if not is_of_sae:
        sae.cfg.metadata[name] = value
    before = sae.W_dec.clone()
    with pytest.raises(ValueError, match=f"is of {name}=.*, this run has {name}="):
        sae.load_weights_from_checkpoint(checkpoint)
    assert torch.equal(sae.W_dec, before)


def test_another_text_is_refused_where_both_are_recorded(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    resumed = runner_config(Path("c"), resume_from_checkpoint=str(folder))
    resumed.sae.metadata.text_sha256 = "now"
    check_resume(resumed)  # what the checkpoint does not record cannot differ
    saved = json.loads((folder / "cfg.json").read_text())
    saved["metadata"]["text_sha256"] = "was"
    (folder / "cfg.json").write_text(json.dumps(saved))
    with pytest.raises(
        ValueError, match="of a text with sha256 was, this run's has now"
    ):
        check_resume(resumed)
    resumed.sae.metadata.text_sha256 = "was"
    check_resume(resumed)


@pytest.mark.parametrize("left", [0, 0.5], ids=["empty", "half"])
@pytest.mark.parametrize(
    "name",
    [
        "activation_scaler.json",
        "activations_store_state.safetensors",
        "cfg.json",
        "runner_cfg.json",
        "sae_weights.safetensors",
        "trainer_state.pt",
    ],
)
def test_any_part_of_a_checkpoint_that_is_damaged_is_named(
    checkpoint: Path, tmp_path: Path, name: str, left: float
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(left * len(content))])
    cfg = runner_config(Path("c"), resume_from_checkpoint=str(folder))
    with pytest.raises(ValueError, match=f"{name} .*truncated.* earlier checkpoint"):
        check_resume(cfg)


def test_what_else_differs_is_listed_once(checkpoint: Path) -> None:
    changes = {"decomposability_coefficient": 0.1, "meta_lr": 0.02, "init_seed": 7}
    cfg = runner_config(
        Path("elsewhere"),
        sae=meta_config(**SETTINGS | changes),
        resume_from_checkpoint=str(checkpoint),
        lr=5e-4,
        dataset_path="another",
        training_tokens=9000,
        train_batch_size_tokens=64,
    )
    with pytest.warns(UserWarning) as caught:
        check_resume(cfg)
    (warning,) = caught
    listed = str(warning.message).split("\n")
    assert (
        listed[0] == f"{checkpoint} was written with other settings than this run has:"
    )
    stays = ", without effect: the checkpoint's stays"
    assert sorted(listed[1:]) == [
        "  dataset_path:  -> another",
        "  decomposability_coefficient: 0.3 -> 0.1",
        f"  init_seed: 42 -> 7{stays}",
        f"  lr: 0.001 -> 0.0005{stays}",
        f"  lr_end: 0.0001 -> 5e-05{stays}",
        "  meta_lr: 0.01 -> 0.02",
        "  train_batch_size_tokens: 128 -> 64",
        "  training_tokens: 5120 -> 9000",
    ]
    sae = MetaTrainingSAE(cfg.sae)
    resumed = SAETrainer(cfg.to_sae_trainer_config(), sae, sparse_batches())
    resumed.load_trainer_state(checkpoint)
    # what is said to stay does, one step into its decay of 20, and the others change
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 19 / 20)
    assert resumed.get_coefficients() == {"decomposability": 0.1}


@pytest.mark.parametrize(
    "schedule", [{"lr_decay_steps": 0}, {"lr_scheduler_name": "cosineannealing"}]
)
def test_a_schedule_of_other_parts_is_refused(
    checkpoint: Path, schedule: dict[str, Any]
) -> None:
    cfg = runner_config(Path("c"), resume_from_checkpoint=str(checkpoint), **schedule)
    message = (
        "schedule of the learning rate: lr_scheduler_name=constant, .*lr_decay_steps=20"
    )
    with pytest.raises(ValueError, match=message):
        check_resume(cfg)


def test_weights_that_are_not_what_their_config_says_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "mixed")
    train(meta_config(d_sae=80), 2).save_model(tmp_path / "other")
    shutil.copy(tmp_path / "other" / SAE_WEIGHTS_FILENAME, tmp_path / "mixed")
    with pytest.raises(
        ValueError, match=r"of shape .*80.*, which its own config denies"
    ):
        sae = MetaTrainingSAE(meta_config(**SETTINGS))
        sae.load_weights_from_checkpoint(tmp_path / "mixed")


@pytest.mark.slow
def test_a_final_checkpoint_whose_factor_is_folded_is_refused(tmp_path: Path) -> None:
    """Resumed, it would be scaled once more; one before it resumes as it should."""
    changes = SETTINGS | {"normalize_activations": "expected_average_only_in"}

    def config(**more: Any) -> LanguageModelSAERunnerConfig[Any]:
        sae = meta_config(**changes | more.pop("sae", {}))
        return runner_config(tmp_path / "c", sae=sae, **more)

    run(config())
    folder = tmp_path / "c" / "run"
    final = folder / f"final_{N_STEPS * BATCH}"
    message = (
        "weights in .*final_.* are of normalize_activations='none', not 'expected_a"
    )
    for asked in ({}, {"normalize_activations": "none"}):
        with pytest.raises(ValueError, match=message):
            check_resume(config(sae=asked, resume_from_checkpoint=str(final)))
        with pytest.raises(ValueError, match=message):
            sae = MetaTrainingSAE(meta_config(**changes | asked))
            sae.load_weights_from_checkpoint(final)
    middle = min(folder.iterdir(), key=lambda p: len(p.name))
    weights = load_file(final / SAE_WEIGHTS_FILENAME)
    resumed = config(resume_from_checkpoint=str(middle))
    check_resume(resumed)
    run(resumed)
    again = load_file(final / SAE_WEIGHTS_FILENAME)
    assert torch.equal(weights["W_dec"], again["W_dec"])


def test_several_saes_do_not_resume_a_final_checkpoint_that_is_folded(
    tmp_path: Path,
) -> None:
    sae = meta_config(normalize_activations="expected_average_only_in")
    trained = train(sae, 4, n_batches_for_norm_estimate=2)
    trained.save_model(tmp_path / "final_512" / "joint")
    asked = meta_config(normalize_activations="expected_average_only_in")
    plain = json.dumps({"saes": {"joint": asked.to_dict()}})
    (tmp_path / "final_512" / "runner_cfg.json").write_text(plain)
    for normalization in ("none", "expected_average_only_in"):
        resuming = MetaTrainingSAE(meta_config(normalize_activations=normalization))
        with pytest.raises(
            ValueError, match="Resume from a checkpoint before the final"
        ):
            resuming.load_weights_from_checkpoint(tmp_path / "final_512" / "joint")


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
