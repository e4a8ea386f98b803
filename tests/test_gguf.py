"""A GGUF file is converted once, and known by what it holds."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from sae_lens import LoggingConfig
from sae_lens.load_model import load_model
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.activations import gguf as conversion
from sae_lens_meta.activations.gguf import convert_gguf
from sae_lens_meta.activations.language_model import (
    found_model,
    is_same_model,
    model_metadata,
    model_path,
)
from sae_lens_meta.saved import Reading
from tests.helpers import meta_config

WIDTH, MLP, N_HEADS = 32, 48, 2
BYTES = sorted(ByteLevel.alphabet())
TOKENS = ["<unk>", "<s>", *BYTES, "th", "in"]
NORMS = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")


def write_gguf(path: Path, seed: int) -> dict[str, np.ndarray]:
    """A Llama of one layer with random weights; returns them by their names in GGUF."""
    rng = np.random.default_rng(seed)
    shapes = {
        "token_embd": (len(TOKENS), WIDTH),
        "output": (len(TOKENS), WIDTH),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (MLP, WIDTH),
        "blk.0.ffn_up": (MLP, WIDTH),
        "blk.0.ffn_down": (WIDTH, MLP),
        **{name: (WIDTH,) for name in NORMS},
    }
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // N_HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def embedding(folder: Path | str) -> np.ndarray:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.model.embed_tokens.weight.detach().numpy()


def test_sae_lens_loads_what_is_converted(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "model.gguf", seed=0)
    folder = convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")
    np.testing.assert_array_equal(embedding(folder), weights["token_embd"])
    model: Any = load_model("AutoModelForCausalLM", str(folder), "cpu")
    tokens = model.tokenizer("the", return_tensors="pt")["input_ids"]
    assert model.tokenizer.convert_ids_to_tokens(tokens[0])[-2:] == ["th", "e"]
    assert torch.isfinite(model(tokens)).all()


def test_two_files_of_one_name_are_two_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = [tmp_path / "a" / "model.gguf", tmp_path / "b" / "model.gguf"]
    weights = [write_gguf(path, seed) for seed, path in enumerate(files)]
    for path, held in zip(files, weights, strict=True):
        np.testing.assert_array_equal(
            embedding(model_path(str(path))), held["token_embd"]
        )
    # the file at the same path changes
    changed = write_gguf(files[0], seed=2)
    np.testing.assert_array_equal(
        embedding(model_path(str(files[0]))), changed["token_embd"]
    )


def test_what_is_logged_of_a_converted_model_has_a_name_that_wandb_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "SmolLM2-135M-Instruct-of-a-long-name.Q4_1.gguf", seed=0)
    (gguf,) = tmp_path.glob("*.gguf")
    path = Path(convert_gguf(gguf, tmp_path / "cache")).relative_to(tmp_path / "cache")
    sae = MetaTrainingSAE(meta_config())
    home = "/home/firstname.lastname/.cache/sae_lens_meta"
    sae.cfg.metadata.model_name = f"{home}/{path}"
    sae.cfg.metadata.hook_name = "model.layers.11"
    taken: list[str] = []
    monkeypatch.setattr("wandb.log_artifact", lambda one, **_: taken.append(one.name))
    trainer = SimpleNamespace(sae=sae, cfg=SimpleNamespace())
    LoggingConfig(log_weights_to_wandb=False).log(trainer, "", gguf, None)
    assert len(taken) == 2, "wandb refuses a longer name"
    assert all("SmolLM2-135M" in name for name in taken)


def test_a_model_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "model.gguf", seed=0)
    folder = convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")
    monkeypatch.delattr(conversion, "_convert")
    assert convert_gguf(tmp_path / "model.gguf", tmp_path / "cache") == folder


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_a_damaged_conversion_is_done_anew(tmp_path: Path, damage: str) -> None:
    weights = write_gguf(tmp_path / "model.gguf", seed=0)
    folder = convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")
    (file,) = folder.glob("*.safetensors")
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")
    np.testing.assert_array_equal(embedding(folder), weights["token_embd"])


def test_an_interrupted_conversion_is_not_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_gguf(tmp_path / "model.gguf", seed=0)

    class Interrupted:
        @staticmethod
        def from_pretrained(**_: Any) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "AutoTokenizer", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")
    folder = convert_gguf(tmp_path / "model.gguf", tmp_path / "cache")
    np.testing.assert_array_equal(embedding(folder), weights["token_embd"])
    assert (folder / "tokenizer.json").exists()
    others = {path.name for path in folder.parent.iterdir()} - {".lock"}
    assert others == {folder.name}


@pytest.mark.slow
def test_two_processes_may_convert_at_once(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "model.gguf", seed=0)
    code = """
import sys
from pathlib import Path
from sae_lens_meta.activations.gguf import convert_gguf
print("ready", flush=True)
sys.stdin.readline()
print(convert_gguf(Path(sys.argv[1]), Path(sys.argv[2])))
"""
    command = [sys.executable, "-c", code, tmp_path / "model.gguf", tmp_path / "cache"]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    folders = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = folders
    np.testing.assert_array_equal(embedding(folder), weights["token_embd"])


def test_a_file_is_told_from_another_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / folder / "model.gguf" for folder in ("a", "b")]
    for seed, path in enumerate(files):
        write_gguf(path, seed)
    records: list[dict[str, Any]] = [model_metadata(str(path)) for path in files]
    installed, other = (Reading(model="/gone", **record) for record in records)
    monkeypatch.setattr(
        "sae_lens_meta.activations.language_model.smollm2_gguf", lambda: files[0]
    )
    assert found_model(installed) == ("smollm2", [])
    assert is_same_model("smollm2", installed)
    assert not is_same_model("smollm2", other)
    with pytest.raises(ValueError, match="is not there. Give --model"):
        found_model(other)
