"""What a saved SAE records is read from its files, and what cannot be measured is refused."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import (
    SAE,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    Transcoder,
    TranscoderConfig,
)
from sae_lens.registry import SAE_CLASS_REGISTRY
from transformers import AutoConfig, AutoModelForCausalLM

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.cli import main
from sae_lens_meta.hashing import file_sha256
from sae_lens_meta.hooks import name_in, transformer_lens_name, transformers_name
from sae_lens_meta.saved import SavedSAE
from tests.helpers import meta_config

WEIGHTS = "sae_weights.safetensors"


def changed(folder: Path, **fields: Any) -> SavedSAE:
    """The SAE in `folder`, its config saying something else."""
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return SavedSAE.read(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A joint SAE as `reproduce` saves it."""
    cfg = meta_config(init_seed=7)
    metadata = cfg.metadata
    metadata.model_name, metadata.model_class_name = "/tmp/m", "AutoModelForCausalLM"
    metadata.model_on_the_hub, metadata.model_file = "org/m", "m.Q4.gguf"
    metadata.model_file_sha256 = "ef" * 32
    metadata.hook_name, metadata.hook_head_index = "model.layers.11", None
    metadata.context_size, metadata.prepend_bos = 64, False
    metadata.exclude_special_tokens, metadata.disable_concat_sequences = [1, 2], True
    metadata.sequence_separator_token, metadata.seqpos_slice = None, (1, None)
    metadata.model_from_pretrained_kwargs = {"dtype": "bfloat16"}
    metadata.dataset_path, metadata.text_sha256 = "corpus.jsonl", "ab" * 32
    metadata.held_out = {"documents": 9, "text_seed": 3}
    metadata.data_seed = 5
    metadata.calibration = {
        "rule": "rate",
        "n_tokens": 4096,
        "text": {
            "sha256": "cd" * 32,
            "first_document": 4,
            "documents": 5,
            "text_seed": 3,
        },
    }
    MetaTrainingSAE(cfg).save_inference_model(tmp_path)
    return tmp_path


def test_all_that_is_recorded_is_read(folder: Path) -> None:
    sae = SavedSAE.read(folder)
    reading = sae.reading
    assert (sae.kind, sae.architecture, sae.training_architecture) == (
        "sae",
        "jumprelu",
        "meta",
    )
    assert (sae.d_in, sae.d_sae, sae.coefficient) == (16, 64, 0.3)
    assert (sae.init_seed, sae.data_seed) == (7, 5)
    assert (reading.model, reading.model_on_the_hub) == ("/tmp/m", "org/m")
    assert (reading.model_file, reading.model_file_sha256) == ("m.Q4.gguf", "ef" * 32)
    assert reading.model_kwargs == {"dtype": "bfloat16"}
    # recorded as SAELens's models attach it
    hook = "blocks.11.hook_resid_post"
    assert (reading.hook, reading.transformer_lens_hook) == (hook, hook)
    assert (reading.context_size, reading.prepend_bos) == (64, False)
    assert (reading.exclude_special_tokens, reading.concatenate) == ((1, 2), False)
    assert (reading.separator, reading.seqpos_slice) == ("none", (1, None))
    assert (sae.normalization, sae.needs_folding) == ("layer_norm", False)
    assert sae.text and (sae.text.sha256, sae.text.held_out) == ("ab" * 32, 9)
    assert sae.calibration and sae.calibration.first_document == 4
    assert sae.calibration.overridden == {}
    assert reading.hook_in_transformers == "model.layers.11"
    assert sae.weights_sha256 == file_sha256(folder / WEIGHTS)


def test_the_hash_is_of_the_weights_that_were_loaded(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "sae")
    saved, before = SavedSAE.read(copy), file_sha256(copy / WEIGHTS)
    sae = saved.load()
    sae.W_dec.data *= 2  # type: ignore[union-attr]
    sae.save_model(copy)  # as another command may, while this one measures
    assert file_sha256(copy / WEIGHTS) != before == saved.weights_sha256


def test_what_is_not_recorded_is_none(tmp_path: Path) -> None:
    StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(tmp_path)
    sae = SavedSAE.read(tmp_path)
    assert set(vars(sae.reading).values()) == {None}
    found = (sae.text, sae.calibration, sae.coefficient, sae.init_seed, sae.data_seed)
    assert found == (None,) * 5
    assert sae.load().cfg.d_sae == 8


def saved_transcoder(folder: Path) -> None:
    cfg = TranscoderConfig(d_in=4, d_sae=8, d_out=4, apply_b_dec_to_input=False)
    Transcoder(cfg).save_model(folder)


def saved_with_another_output(folder: Path) -> None:
    cfg = JumpReLUSAEConfig(d_in=4, d_sae=8)
    cfg.metadata.hook_name, cfg.metadata.hook_name_out = "a", "b"
    JumpReLUSAE(cfg).save_model(folder)


def saved_checkpoint(folder: Path) -> None:
    # the architecture has the same name as that for inference
    cfg = StandardTrainingSAEConfig(d_in=4, d_sae=8)
    StandardTrainingSAE(cfg).save_model(folder)


def saved_meta_checkpoint(folder: Path) -> None:
    MetaTrainingSAE(meta_config()).save_model(folder)


def saved_unfolded(folder: Path) -> None:
    cfg = JumpReLUSAEConfig(
        d_in=4, d_sae=8, normalize_activations="expected_average_only_in"
    )
    JumpReLUSAE(cfg).save_model(folder)


def saved_truncated(folder: Path) -> None:
    StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(folder)
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-10])


def saved_empty(folder: Path) -> None:
    StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(folder)
    (folder / "cfg.json").write_text("")


def saved_of_another_shape(folder: Path) -> None:
    StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(folder)
    changed(folder, d_sae=9)


def saved_unknown(folder: Path) -> None:
    StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(folder)
    cfg = json.loads((folder / "cfg.json").read_text()) | {"architecture": "mine"}
    (folder / "cfg.json").write_text(json.dumps(cfg))


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (saved_transcoder, "is a transcoder: it predicts another activation"),
        (saved_with_another_output, "is a jumprelu: it predicts another activation"),
        (saved_checkpoint, "is a checkpoint of a training"),
        (saved_meta_checkpoint, "is a checkpoint of a training"),
        (saved_unfolded, "expected_average_only_in.* its codes are wrong"),
        (saved_truncated, "truncated or damaged"),
        (saved_empty, "is not the config of an SAE"),
        (saved_of_another_shape, "does not fit cfg.json beside it"),
        (saved_unknown, "of architecture 'mine', which SAELens does not know"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "calibrate", "compare", "autointerp"])
def test_every_command_refuses_what_it_cannot_measure(
    tmp_path: Path, save: Any, message: str, command: str
) -> None:
    save(tmp_path / "sae")
    path = str(tmp_path / "sae")
    args = {
        "evaluate": [path],
        "calibrate": [path],
        "compare": ["--joint", path, "--solo", path + "/../sae/."],
        "autointerp": ["--sae", f"a={path}", "--judge_url", "http://127.0.0.1:1/v1"]
        + ["--judge_model", "m"],
    }[command]
    if command == "compare":
        StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(tmp_path / "other")
        args = ["--joint", path, "--solo", str(tmp_path / "other")]
    with pytest.raises(SystemExit, match=message):
        main([command, *args])


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "SAE"],
        ["demo", "--output", "o"],
        ["train", "--d_in", "4", "--hook_name", "h", "--output_path", "o"],
        ["reproduce", "metasae-gpt2l-l20", "--rehearse", "--output", "o"],
        ["sweep", "metasae-gpt2l-l20", "--grid", "lr=1e-3", "--output", "o"],
        ["groundtruth", "--output", "o"],
    ],
    ids=lambda command: command[0],
)
def test_a_device_that_is_not_there_is_one_line(
    folder: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("There is CUDA here.")
    monkeypatch.chdir(tmp_path)
    args = [str(folder) if arg == "SAE" else arg for arg in command]
    with pytest.raises(SystemExit, match="no device 'cuda' here.*Give --device cpu"):
        main([*args, "--device", "cuda"])
    assert not (tmp_path / "o").exists()


def test_every_transcoder_and_the_temporal_sae_are_told_from_saes(
    tmp_path: Path,
) -> None:
    measured = set()
    for name, (of, of_config) in SAE_CLASS_REGISTRY.items():
        if not of.__module__.startswith("sae_lens."):
            continue  # of another test
        writes_elsewhere = "transcoder" in name
        shape: dict[str, Any] = {"d_in": 4, "d_sae": 512 if name == "temporal" else 8}
        if writes_elsewhere:
            shape |= {"d_out": 4, "apply_b_dec_to_input": False}
        of(of_config(**shape)).save_model(tmp_path / name)
        saved = SavedSAE.read(tmp_path / name)
        assert (saved.kind == "transcoder") == writes_elsewhere, name
        with suppress(ValueError):
            saved.check_is_sae()
            measured.add(name)
    stock = {"standard", "gated", "topk", "abstopk", "jumprelu", "matching_pursuit"}
    assert stock <= measured
    assert not {"temporal", "jumprelu_skip_transcoder", "transcoder"} & measured


def test_thresholds_are_never_rounded_on_their_way(tmp_path: Path) -> None:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=4, d_sae=8))
    exact = torch.rand(8, generator=torch.Generator().manual_seed(0))
    sae.threshold.data = exact.clone()
    sae.save_model(tmp_path)
    loaded: Any = changed(tmp_path, dtype="bfloat16").load()
    assert torch.equal(loaded.threshold, exact)
    rounded: Any = SAE.load_from_disk(tmp_path)
    assert not torch.equal(rounded.threshold.float(), exact), (
        "or there is nothing to test"
    )


@pytest.mark.parametrize(
    ("hook", "wanted"),
    [
        ("model.layers.11", "blocks.11.hook_resid_post"),
        ("transformer.h.0", "blocks.0.hook_resid_post"),
        ("gpt_neox.layers.5", "blocks.5.hook_resid_post"),
        ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_pre"),
        ("model.layers.11.mlp", None),
        ("lm_head", None),
    ],
)
def test_a_hook_has_its_name_in_transformer_lens(hook: str, wanted: str | None) -> None:
    assert transformer_lens_name(hook) == wanted


def test_a_model_finds_the_hook_by_either_name() -> None:
    llama, lens = {"model.layers.10", "model.layers.11"}, {"blocks.11.hook_resid_post"}
    assert name_in("blocks.11.hook_resid_post", llama) == "model.layers.11"
    # what goes into a block is what came out of the one before
    assert name_in("blocks.11.hook_resid_pre", llama) == "model.layers.10"
    assert name_in("blocks.0.hook_resid_pre", llama) is None
    assert name_in("model.layers.11", llama) == "model.layers.11"
    assert name_in("model.layers.11", lens) == "blocks.11.hook_resid_post"
    assert name_in("model.layers.11.mlp", lens) is None


SMALL: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.mark.parametrize(
    ("kind", "models"),
    [
        ("gpt2", ["gpt2", "gpt2-small", "openai-community/gpt2-large", "distilgpt2"]),
        ("gpt_neox", ["EleutherAI/pythia-70m-deduped", "pythia-1b"]),
        ("opt", ["facebook/opt-125m"]),
        ("gemma", ["google/gemma-2b-it"]),
        ("gemma2", ["google/gemma-2-9b", "gemma-2-2b-it"]),
        ("llama", ["meta-llama/Llama-3.1-8B", "Meta-Llama-3-8B", "meta-llama/Llama-2-7b-hf"]),
        ("llama", ["HuggingFaceTB/SmolLM2-135M-Instruct"]),
        ("mistral", ["mistralai/Mistral-7B-v0.1"]),
        ("qwen2", ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen1.5-0.5B"]),
        ("qwen3", ["Qwen/Qwen3-0.6B"]),
    ],
)  # fmt: skip
def test_a_family_has_its_blocks_where_transformers_has_them(
    kind: str, models: list[str]
) -> None:
    config = AutoConfig.for_model(kind, **SMALL)
    modules = dict(AutoModelForCausalLM.from_config(config).named_modules())
    for model in models:
        for hook in ("blocks.2.hook_resid_post", "blocks.1.hook_resid_pre"):
            name = transformers_name(hook, model)
            assert name in modules
            # a block, not a part of one
            assert sum(m.startswith(f"{name}.") for m in modules) > 4
        post, pre = (f"blocks.1.hook_resid_{end}" for end in ("post", "pre"))
        assert transformers_name(post, model) != transformers_name(pre, model)


@pytest.mark.parametrize(
    ("hook", "model"),
    [
        ("blocks.2.hook_resid_post", "Qwen/Qwen-1_8B"),  # its blocks are elsewhere
        ("blocks.2.hook_resid_post", "google/gemma-3-4b-it"),
        ("blocks.2.hook_resid_post", "Qwen/Qwen2-VL-2B"),
        ("blocks.2.hook_resid_post", "meta-llama/Llama-3.2-11B-Vision"),
        ("blocks.2.hook_resid_post", "my-model"),
        ("blocks.2.hook_resid_post", None),
        ("blocks.2.hook_mlp_out", "gpt2"),
        ("blocks.0.hook_resid_pre", "gpt2"),
    ],
)
def test_what_no_family_tells_has_no_name_in_transformers(
    hook: str, model: str | None
) -> None:
    assert transformers_name(hook, model) is None


def test_a_record_by_transformer_lens_has_the_other_name_too(folder: Path) -> None:
    named = json.loads((folder / "cfg.json").read_text())["metadata"]
    del named["hf_hook_name"], named["model_on_the_hub"]
    named |= {"hook_name": "blocks.3.hook_resid_post", "model_name": "gpt2"}
    reading = changed(folder, metadata=named).reading
    assert reading.transformer_lens_hook == "blocks.3.hook_resid_post"
    assert reading.hook_in_transformers == "transformer.h.3"
    # the Hub's id goes before a path
    named |= {"model_name": "/x/gpt2", "model_on_the_hub": "google/gemma-2-2b"}
    reading = changed(folder, metadata=named).reading
    assert reading.hook_in_transformers == "model.layers.3"
