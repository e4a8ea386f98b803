"""A run through each of SAELens's entry points, on a real model where it needs one."""

import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import (
    SAE,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)
from sae_lens.synthetic import (
    SyntheticModelConfig,
    SyntheticSAERunner,
    SyntheticSAERunnerConfig,
)
from sae_lens.training._interruption import InterruptedException
from transformer_lens import HookedTransformer

from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig
from sae_lens_meta.cli import main
from tests.helpers import D_IN, forward, meta_config, sparse_batches, trainer_for

STEPS, BATCH = 12, 256
HOOK = "model.layers.11"


def real_sae(**changes: Any) -> MetaTrainingSAEConfig:
    return meta_config(d_in=576, d_sae=256, k=8, meta_d_sae=24, **changes)


def runner_config(
    smollm2: Path,
    output: Path,
    sae: MetaTrainingSAEConfig | None = None,
    **changes: Any,
) -> LanguageModelSAERunnerConfig[MetaTrainingSAEConfig]:
    settings: dict[str, Any] = {
        "sae": sae or real_sae(),
        "model_name": str(smollm2),
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": HOOK,
        "training_tokens": STEPS * BATCH,
        "train_batch_size_tokens": BATCH,
        "store_batch_size_prompts": 8,
        "n_batches_in_buffer": 16,
        "is_dataset_tokenized": False,
        "streaming": False,
        "lr": 1e-3,
        "n_eval_batches": 1,
        "checkpoint_path": None,
        "output_path": str(output),
        "verbose": False,
        "logger": LoggingConfig(log_to_wandb=False),
    }
    return LanguageModelSAERunnerConfig(**settings | changes)


def assert_joint_run(sae: Any, output: Path) -> None:
    """The run trained, its cycle ran, and what it saved is what stock SAELens loads."""
    assert isinstance(sae, MetaTrainingSAE)
    assert sae.meta_sae is not None
    n_phases = (STEPS - 1) // sae.cfg.primary_steps_per_cycle
    n_meta_steps = n_phases * sae.cfg.meta_steps_per_cycle
    assert int(sae.meta_sae.adam_step) == n_meta_steps
    start = MetaTrainingSAE(sae.cfg)
    assert start.meta_sae is not None
    assert not torch.equal(sae.W_dec, start.W_dec)
    assert not torch.equal(sae.meta_sae.W_dec, start.meta_sae.W_dec)
    for folder, d_sae in ((output, sae.cfg.d_sae), (output / "meta", 24)):
        assert SAE.load_from_disk(folder).cfg.d_sae == d_sae


@pytest.mark.slow
def test_language_model_runner_on_a_hugging_face_model(
    smollm2: Path, text: Dataset, tmp_path: Path
) -> None:
    cfg = runner_config(smollm2, tmp_path)
    sae = LanguageModelSAETrainingRunner(cfg, override_dataset=text).run()
    assert_joint_run(sae, tmp_path)
    metadata = SAE.load_from_disk(tmp_path).cfg.metadata
    assert (metadata.hf_hook_name, metadata.training_architecture) == (HOOK, "meta")
    assert metadata.hook_name == "blocks.11.hook_resid_post"


@pytest.mark.slow
def test_language_model_runner_on_a_transformer_lens_model(
    smollm2: Path, hooked_smollm2: HookedTransformer, text: Dataset, tmp_path: Path
) -> None:
    hook = "blocks.11.hook_resid_post"
    cfg = runner_config(
        smollm2, tmp_path, model_class_name="HookedTransformer", hook_name=hook
    )
    runner = LanguageModelSAETrainingRunner(
        cfg, override_dataset=text, override_model=hooked_smollm2
    )
    assert_joint_run(runner.run(), tmp_path)


@pytest.mark.slow
def test_transformer_lens_twin_gives_the_activations_of_the_real_model(
    smollm2: Path, hooked_smollm2: HookedTransformer
) -> None:
    from sae_lens.load_model import load_model

    proxy = load_model("AutoModelForCausalLM", str(smollm2), hook_names=[HOOK])
    tokens = torch.arange(5, 25)[None]
    hook = "blocks.11.hook_resid_post"
    ours = hooked_smollm2.run_with_cache(tokens, names_filter=[hook])[1][hook]
    theirs = proxy.run_with_cache(tokens, names_filter=[HOOK])[1][HOOK]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["autocast", "compile_sae", "autocast_lm"])
def test_runner_options_give_the_same_training_up_to_their_precision(
    smollm2: Path, text: Dataset, tmp_path: Path, option: str
) -> None:
    saes = []
    runs: list[dict[str, Any]] = [{}, {option: True}]
    for name, options in zip(("plain", option), runs, strict=True):
        cfg = runner_config(smollm2, tmp_path / name, None, **options)
        torch.manual_seed(0)
        sae = LanguageModelSAETrainingRunner(cfg, override_dataset=text).run()
        assert_joint_run(sae, tmp_path / name)
        saes.append(sae)
    plain, changed = saes
    start = MetaTrainingSAE(real_sae())
    moved = (plain.W_dec - start.W_dec).norm()
    # a selection that flips at the threshold moves one latent, not the run
    tolerance = 0.05 if option == "compile_sae" else 0.5
    assert (changed.W_dec - plain.W_dec).norm() < tolerance * moved


@pytest.mark.slow
def test_command_line_trains_meta_by_default(
    smollm2: Path, text: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    text.to_json(str(tmp_path / "data" / "train.jsonl"))
    output = tmp_path / "out"
    main(
        f"""train --model_name {smollm2} --model_class_name AutoModelForCausalLM
        --hook_name {HOOK} --dataset_path {tmp_path / "data"} --is_dataset_tokenized false
        --streaming false --training_tokens {STEPS * BATCH} --train_batch_size_tokens {BATCH}
        --store_batch_size_prompts 8 --d_in 576 --d_sae 256 --k 8 --meta_d_sae 24 --meta_k 2
        --primary_steps_per_cycle 3 --meta_steps_per_cycle 2 --log_to_wandb false
        --decomposability_bandwidth 3.0 --output_path {output} --checkpoint_path {tmp_path}/c
        """.split()
    )
    meta = SAE.load_from_disk(output / "meta")
    assert meta.cfg.d_sae == 24
    details = SAE.load_from_disk(output).cfg.metadata.training_architecture_details
    assert details["decomposability_bandwidth"] == 3.0


OWN_OPTIONS = {
    "meta_topk": "--k 8",
    "meta_jumprelu": "--jumprelu_init_threshold 0.5 --l0_coefficient 2",
    "meta_standard": "--l1_coefficient 2",
    "meta_gated": "--l1_coefficient 2",
    "meta_matryoshka_batchtopk": "--k 8 --matryoshka_widths 64 256",
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OWN_OPTIONS)
def test_command_line_trains_every_architecture(
    smollm2: Path, text: Dataset, tmp_path: Path, architecture: str
) -> None:
    (tmp_path / "data").mkdir()
    text.to_json(str(tmp_path / "data" / "train.jsonl"))
    output = tmp_path / "out"
    main(
        f"""train --architecture {architecture} {OWN_OPTIONS[architecture]}
        --model_name {smollm2} --model_class_name AutoModelForCausalLM
        --hook_name {HOOK} --dataset_path {tmp_path / "data"} --is_dataset_tokenized false
        --streaming false --training_tokens {STEPS * BATCH} --train_batch_size_tokens {BATCH}
        --store_batch_size_prompts 8 --d_in 576 --d_sae 256 --meta_d_sae 24 --meta_k 2
        --primary_steps_per_cycle 3 --meta_steps_per_cycle 2 --log_to_wandb false
        --meta_lr 0.01 --output_path {output}
        """.split()
    )
    sae, meta = SAE.load_from_disk(output), SAE.load_from_disk(output / "meta")
    assert type(sae).__module__.startswith("sae_lens.")
    assert sae.cfg.metadata.training_architecture == architecture
    assert meta.cfg.architecture() == "jumprelu" and meta.cfg.d_sae == 24
    details = sae.cfg.metadata.training_architecture_details
    assert details["decomposability_coefficient"] == 0.3
    x = torch.randn(4, 576, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(sae(x)).all()


@pytest.mark.parametrize("architecture", ["meta", *OWN_OPTIONS])
def test_command_line_knows_our_fields_and_explains_them(
    capsys: pytest.CaptureFixture[str], architecture: str
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--architecture", architecture, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "--decomposability_coefficient float Weight of the penalty" in printed
    assert "--meta_d_sae [int] Number of meta latents" in printed


def test_runner_config_survives_its_own_dictionary(tmp_path: Path) -> None:
    cfg = runner_config(tmp_path, tmp_path, real_sae(decomposability_bandwidth=3.0))
    loaded = LanguageModelSAERunnerConfig.from_dict(
        json.loads(json.dumps(cfg.to_dict()))
    )
    assert isinstance(loaded.sae, MetaTrainingSAEConfig)
    assert loaded.sae.to_dict() == cfg.sae.to_dict()


def multi_config(
    smollm2: Path, folder: Path, saes: dict[str, MetaTrainingSAEConfig], **changes: Any
) -> MultiSAETrainingRunnerConfig:
    return MultiSAETrainingRunnerConfig(
        saes=saes,
        hook_names=HOOK,
        model_name=str(smollm2),
        model_class_name="AutoModelForCausalLM",
        training_tokens=STEPS * BATCH,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=8,
        checkpoint_path=str(folder / "checkpoints"),
        output_path=str(folder / "out"),
        logger=LoggingConfig(log_to_wandb=False),
        **changes,
    )


@pytest.mark.slow
def test_multi_runner_trains_solo_beside_joint_on_the_same_activations(
    smollm2: Path, text: Dataset, tmp_path: Path
) -> None:
    saes = {
        "joint": real_sae(),
        "solo": real_sae(decomposability_coefficient=0),
        "again": real_sae(decomposability_coefficient=0),
    }
    cfg = multi_config(smollm2, tmp_path, saes, n_checkpoints=1)
    trained = MultiSAETrainingRunner(cfg, override_dataset=text).run()
    assert_joint_run(trained["joint"], tmp_path / "out" / "joint")
    solo = trained["solo"]
    assert torch.equal(solo.W_dec, trained["again"].W_dec), "identical activations"
    assert not torch.equal(solo.W_dec, trained["joint"].W_dec)

    (checkpoint,) = (tmp_path / "checkpoints").glob("*/*")
    cfg.resume_from_checkpoint = str(checkpoint)
    cfg.training_tokens += BATCH
    resumed = MultiSAETrainingRunner(cfg, override_dataset=text).run()["joint"]
    assert isinstance(resumed, MetaTrainingSAE) and resumed.meta_sae is not None
    assert int(resumed.meta_sae.adam_step) == 2 * (STEPS // 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_multi_run_leaves_a_checkpoint_that_resumes(
    smollm2: Path, text: Dataset, tmp_path: Path, number: signal.Signals
) -> None:
    def runner(**changes: Any) -> MultiSAETrainingRunner:
        cfg = multi_config(smollm2, tmp_path, {"joint": real_sae()}, **changes)
        return MultiSAETrainingRunner(cfg, override_dataset=text)

    calls = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 8:
            os.kill(os.getpid(), number)

    interrupted = runner()
    interrupted.saes["joint"].hook_sae_input.register_forward_hook(interrupt)
    with pytest.raises(InterruptedException):
        interrupted.run()
    (checkpoint,) = (tmp_path / "checkpoints").glob("*/*")
    assert int(checkpoint.name) == 7 * BATCH  # the eighth step was interrupted
    resumed = runner(resume_from_checkpoint=str(checkpoint)).run()["joint"]
    assert_joint_run(resumed, tmp_path / "out" / "joint")


@pytest.mark.slow
def test_stock_runner_resumes_its_own_checkpoint(
    smollm2: Path, text: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "n_checkpoints": 1,
        "checkpoint_path": str(tmp_path / "c"),
    }
    cfg = runner_config(smollm2, tmp_path / "out", **options)
    LanguageModelSAETrainingRunner(cfg, override_dataset=text).run()
    (checkpoint,) = (tmp_path / "c").glob("*/*")
    done = int(checkpoint.name) // BATCH
    assert 0 < done < STEPS
    cfg = runner_config(
        smollm2, tmp_path / "out", resume_from_checkpoint=str(checkpoint), **options
    )
    runner = LanguageModelSAETrainingRunner(cfg, override_dataset=text)
    assert_joint_run(runner.run(), tmp_path / "out")


def test_synthetic_runner_trains_against_ground_truth(tmp_path: Path) -> None:
    cfg = SyntheticSAERunnerConfig(
        synthetic_model=SyntheticModelConfig(num_features=48, hidden_dim=D_IN),
        sae=meta_config(),
        training_samples=STEPS * BATCH,
        batch_size=BATCH,
        eval_samples=2000,
        output_path=str(tmp_path),
        checkpoint_path=None,
        logger=LoggingConfig(log_to_wandb=False),
    )
    result = SyntheticSAERunner(cfg).run()
    assert isinstance(result.sae, MetaTrainingSAE) and result.sae.meta_sae is not None
    assert int(result.sae.meta_sae.adam_step) == 2 * ((STEPS - 1) // 3)
    assert result.final_eval is not None
    assert SAE.load_from_disk(tmp_path / "meta").cfg.d_sae == 12


@pytest.mark.slow
def test_compiled_step_gives_the_losses_of_the_eager_one() -> None:
    losses = []
    for compiled in (False, True):
        torch._dynamo.reset()
        sae = MetaTrainingSAE(meta_config())
        trainer = trainer_for(sae, sparse_batches(), 12)
        if compiled:
            sae.training_forward_pass = torch.compile(sae.training_forward_pass)
        batches = sparse_batches()
        losses.append([trainer.step(next(batches)).loss.item() for _ in range(12)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_wandb_receives_losses_and_metrics_under_their_own_names(
    smollm2: Path, text: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    logger = LoggingConfig(wandb_log_frequency=4, eval_every_n_wandb_logs=2)
    # W&B takes 128 characters for a name that SAELens puts the model's path into
    with TemporaryDirectory() as short:
        model = Path(short) / "model"
        model.symlink_to(smollm2)
        cfg = runner_config(model, tmp_path / "out", logger=logger)
        LanguageModelSAETrainingRunner(cfg, override_dataset=text).run()

    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    history = read_wandb_history(path)
    logged = [row for row in history if "losses/overall_loss" in row]
    assert len(logged) == STEPS // 4
    for row in logged:
        total = row["losses/mse_loss"] + row["losses/auxiliary_reconstruction_loss"]
        total += row["losses/decomposability_loss"]
        assert row["losses/overall_loss"] == pytest.approx(total, rel=1e-5)
        penalty = row["losses/decomposability_loss"] / (0.3 * 576)
        assert row["metrics/mean_penalty"] == pytest.approx(penalty, rel=1e-5)
        assert 0 < row["metrics/meta_mse"] < 2
        assert row["metrics/meta_explained_variance"] < 1
        assert row["details/decomposability_coefficient"] == 0.3


def read_wandb_history(path: Path) -> list[dict[str, float]]:
    """The rows that an offline run logged, from the file it left."""
    records = finished_run(path)
    return [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
        for items in (r.history.item for r in records if r.HasField("history"))
    ]


def finished_run(path: Path, patience: float = 60) -> list[Any]:
    """All records, once the last is there: a process of its own still writes after finish()."""
    pb: Any = import_module("wandb.proto.wandb_internal_pb2")
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        parts = leveldb_records(path.read_bytes()[7:], offset=7)
        records = [pb.Record.FromString(part) for part in parts]
        if records and records[-1].HasField("exit"):
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{path} has no exit record after {patience} s.")


def leveldb_records(log: bytes, offset: int, block: int = 32768) -> Iterator[bytes]:
    """Records of a LevelDB log: chunks of crc32, length, type (1 whole, 4 last), data."""
    record, place = b"", 0
    while place + 7 <= len(log):
        if block - (place + offset) % block < 7:
            place += block - (place + offset) % block
            continue
        length, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        if place + 7 + length > len(log):
            return
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_dead_mask_of_the_trainer_is_the_primarys_alone() -> None:
    sae = MetaTrainingSAE(meta_config())
    trainer = trainer_for(sae, sparse_batches(), 2)
    assert trainer.dead_neurons.shape == (sae.cfg.d_sae,)
    assert torch.isfinite(forward(sae, next(sparse_batches())).loss)
