"""What is wrong with a run is said before it trains, through our command line."""

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file

import sae_lens_meta.cli as cli
from sae_lens_meta.activations.language_model import (
    SMOLLM2,
    SMOLLM2_ON_THE_HUB,
    model_path,
)
from sae_lens_meta.training.checks import (
    check_dataset,
    check_hook,
    hook_width,
    warn_of_slow_meta_sae,
)
from tests.helpers import meta_config, tiny_model, train
from tests.test_entry_points import runner_config


def test_width_of_a_hook_is_what_the_model_gives() -> None:
    assert hook_width(tiny_model(), "blocks.1.hook_resid_pre") == 16
    assert hook_width(tiny_model(), "blocks.1.mlp.hook_post") == 64
    assert hook_width(tiny_model(), "blocks.0.attn.hook_z") == 16


def test_unknown_hook_names_the_ones_like_it() -> None:
    with pytest.raises(
        ValueError, match="no hook named 'blocks.1.hook_resid_prey'.*hook_resid_pre"
    ):
        hook_width(tiny_model(), "blocks.1.hook_resid_prey")


def test_d_in_that_does_not_match_the_hook(tmp_path: Path) -> None:
    cfg = runner_config(
        tmp_path, tmp_path, meta_config(d_in=24), hook_name="blocks.0.hook_resid_pre"
    )
    with pytest.raises(
        ValueError, match="gives 16 dimensions but the SAE has d_in=24. Set d_in to 16"
    ):
        check_hook(tiny_model(), cfg)


@pytest.mark.parametrize("streaming", [False, True])
def test_empty_dataset(tmp_path: Path, streaming: bool) -> None:
    Dataset.from_dict({"text": []}).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(ValueError, match="gives nothing to train on|is empty"):
        check_dataset(str(tmp_path), streaming)


def training(folder: Path) -> list[str]:
    """A command that trains on the text in `folder`."""
    common = (
        f"train --hook_name blocks.0.hook_resid_pre --dataset_path {folder / 'data'}"
    )
    common += (
        " --streaming false --log_to_wandb false --d_in 16 --d_sae 64 --k 4 --meta_k 2"
    )
    common += (
        f" --training_tokens 256 --train_batch_size_tokens 128 --output_path {folder}/o"
    )
    common += f" --checkpoint_path {folder}/c --store_batch_size_prompts 1"
    return common.split()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `sae-lens-meta train` up to the training itself, on a tiny model and one line of text."""
    model = tiny_model(n_ctx=128)
    monkeypatch.setattr(
        "sae_lens.llm_sae_training_runner.load_model", lambda *_args, **_kwargs: model
    )
    (tmp_path / "data").mkdir()
    row = json.dumps({"tokens": [1] * 128})
    (tmp_path / "data" / "train.jsonl").write_text(f"{row}\n" * 4)

    def run(*args: str) -> str:
        with pytest.raises(SystemExit) as exit:
            cli.main([*training(tmp_path), *args])
        assert not (tmp_path / "o").exists(), "nothing was trained"
        return str(exit.value)

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_in_cache")
def test_train_takes_the_models_that_measuring_takes_and_records_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Stopped(Exception):
        pass

    def no_training(cfg: Any, **_: Any) -> Any:
        asked.append(cfg)
        raise Stopped

    monkeypatch.setattr(
        "sae_lens_meta.cli.train.LanguageModelSAETrainingRunner", no_training
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    with pytest.raises(Stopped):
        cli.main([*training(tmp_path), "--model_name", SMOLLM2])
    (cfg,) = asked
    assert cfg.model_name == model_path(SMOLLM2)
    assert cfg.sae.metadata.model_on_the_hub == SMOLLM2_ON_THE_HUB


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--meta_d_sae", "64"],
            "meta_d_sae must be at least 1 and below d_sae=64, got 64",
        ),
        (
            ["--meta_steps_per_cycle", "0"],
            "meta_steps_per_cycle must be at least 1, got 0",
        ),
        (["--d_in", "24"], "gives 16 dimensions but the SAE has d_in=24"),
        (
            ["--hook_name", "blocks.7.hook_resid_pre"],
            "no hook named 'blocks.7.hook_resid_pre'",
        ),
        (["--resume_from_checkpoint", "nowhere"], "no checkpoint folder at nowhere"),
    ],
)
def test_command_line_ends_with_one_line(
    command: Any, args: list[str], message: str
) -> None:
    assert message in command(*args)


def test_a_meta_sae_too_slow_for_its_primary_is_warned_of(
    command: Any, tmp_path: Path
) -> None:
    def config(lr: float, coefficient: float = 0.3) -> Any:
        # 3 primary and 2 meta steps a cycle
        changes = {"meta_lr": 3e-3, "decomposability_coefficient": coefficient}
        return runner_config(tmp_path, tmp_path, meta_config(**changes), lr=lr)

    with pytest.warns(UserWarning, match="learns at 0.5 times .* meta_lr=0.003"):
        warn_of_slow_meta_sae(config(lr=4e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slow_meta_sae(config(lr=2e-3))
        warn_of_slow_meta_sae(config(lr=4e-3, coefficient=0))
    with pytest.warns(UserWarning, match="Set meta_lr, up to 3e-3"):
        command("--d_in", "24", "--meta_lr", "0.0003")


def test_command_line_refuses_a_truncated_checkpoint(
    command: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    train(
        meta_config(meta_d_sae=None),
        3,
        save_final_checkpoint=True,
        checkpoint_path=str(folder),
    )
    (checkpoint,) = folder.iterdir()
    with open(checkpoint / "trainer_state.pt", "r+b") as file:
        file.truncate(2000)
    printed = command("--resume_from_checkpoint", str(checkpoint))
    assert "has no activations_store_state.safetensors" in printed
    save_file({"n": torch.zeros(1)}, checkpoint / "activations_store_state.safetensors")
    printed = command("--resume_from_checkpoint", str(checkpoint))
    assert "trainer_state.pt cannot be read" in printed


def test_command_line_refuses_to_resume_something_else(
    command: Any, tmp_path: Path
) -> None:
    scaled = ["--normalize_activations", "expected_average_only_in"]
    scaled += ["--n_batches_for_norm_estimate", "1", "--training_tokens", "512"]
    cli.main(
        [*training(tmp_path), *scaled, "--n_checkpoints", "1"]
        + ["--save_final_checkpoint", "true"]
    )
    shutil.rmtree(tmp_path / "o")
    middle, final = sorted(tmp_path.glob("c/*/*"), key=lambda path: len(path.name))
    hook = "blocks.1.hook_resid_pre"
    for args, message in (
        (["--hook_name", hook], f"resid_pre', this run has hook_name={hook!r}"),
        (["--normalize_activations", "none"], "normalize_activations='none'"),
        (["--k", "3"], "is of k=4.0, this run has k=3.0"),
        (["--meta_k", "3"], "is of meta_k=2.0, this run has meta_k=3.0"),
    ):
        resume = ["--resume_from_checkpoint", str(middle)]
        assert message in command(*scaled, *resume, *args)
    printed = command(*scaled, "--resume_from_checkpoint", str(final))
    assert "Resume from a checkpoint before the final one." in printed
    with pytest.warns(UserWarning, match=r"  lr: 0.0003 -> 0.001, without effect"):
        cli.main(
            [*training(tmp_path), *scaled, "--lr", "0.001"]
            + ["--resume_from_checkpoint", str(middle)]
        )
    assert (tmp_path / "o" / "cfg.json").is_file()


def test_training_on_rows_of_tokens_that_begin_otherwise_is_refused(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would record BOS that the SAE never read."""
    model: Any = tiny_model(n_ctx=128)
    model.tokenizer = SimpleNamespace(bos_token_id=7, padding_side="right")
    monkeypatch.setattr(
        "sae_lens.llm_sae_training_runner.load_model", lambda *_args, **_kwargs: model
    )
    # which asks the Hub for the tokenizer that the rows were made with
    monkeypatch.setattr(
        "sae_lens.training.activations_store.validate_pretokenized_dataset_tokenizer",
        lambda **_kwargs: None,
    )
    assert "0 of 4 rows of tokens of" in command()
    model.tokenizer.bos_token_id = 1
    assert "4 of 4 rows of tokens of" in command("--prepend_bos", "false")


def test_command_line_explains_a_value_that_does_not_parse(command: Any) -> None:
    assert "invalid int value: 'many'" in command("--meta_steps_per_cycle", "many")
