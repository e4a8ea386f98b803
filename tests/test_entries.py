"""Which SAEs may be compared, what they are called, and whose progress a folder keeps."""

from dataclasses import fields
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_meta.activations.comparable import _MUST_AGREE, check_comparable
from sae_lens_meta.comparison.config import CompareConfig
from sae_lens_meta.comparison.members import named_entries, variants
from sae_lens_meta.comparison.progress import claim, discard, fingerprint
from sae_lens_meta.saved import Reading, SavedSAE


def sae(d_in: int = 16, d_sae: int = 20, **metadata: Any) -> SavedSAE:
    """What an SAE records that was saved with these metadata."""
    made = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=d_sae))
    for key, value in metadata.items():
        setattr(made.cfg.metadata, key, value)
    folder = Path(mkdtemp())
    made.save_model(folder)
    return SavedSAE.read(folder)


def trained(coefficient: float, seed: int, **settings: Any) -> SavedSAE:
    details = {"decomposability_coefficient": coefficient, "init_seed": seed, "k": 4}
    return sae(training_architecture_details=details | settings)


def entries_of(groups: dict[str, list[str]], baseline: str = "solo") -> Any:
    return named_entries(
        {name: [Path(p) for p in paths] for name, paths in groups.items()}, baseline
    )


def test_names_are_as_short_as_tells_them_apart_and_never_paths() -> None:
    entries = entries_of(
        {"joint": ["/data/joint"], "solo": ["/old/data/joint", "/a/solo"]}
    )
    assert [e.name for e in entries] == ["data/joint", "old/data/joint", "a/solo"]
    assert [e.id for e in entries] == ["sae_0", "sae_1", "sae_2"]
    assert [e.name for e in entries_of({"joint": ["/x/j"], "solo": ["/x/s"]})] == [
        "j",
        "s",
    ]
    with pytest.raises(ValueError, match="more than once: x/j"):
        entries_of({"joint": ["/x/j"], "solo": ["/x/y/../j"]})
    with pytest.raises(ValueError, match="There is no solo SAE"):
        entries_of({"joint": ["/x/j"], "solo": []})


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"d_in": 8}, "d_in are 8 and 16"),
        ({"hook_name": "b"}, "hook are 'b' and None.* or give --hook for all"),
        ({"hook_head_index": 2}, "head are 2 and None"),
        ({"prepend_bos": True}, "prepend_bos are True and None.* give --prepend_bos"),
        ({"context_size": 64}, "context_size are 64 and None.* give --context_size"),
        ({"seqpos_slice": (1, None)}, "seqpos_slice"),
        ({"exclude_special_tokens": True}, "tokens are True and None.* give --exclude"),
        ({"disable_concat_sequences": True}, "concatenate are False and None.* give"),
        ({"sequence_separator_token": None}, "separator are 'none' and None.* give"),
        ({"model_class_name": "HookedTransformer"}, "model_class are"),
        ({"model_from_pretrained_kwargs": {"revision": "v2"}}, "model_kwargs are"),
        ({"autocast_lm": True}, "autocast_lm are True and False"),
    ],
)
def test_what_reads_other_activations_is_named(
    other: dict[str, Any], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        check_comparable({"first": sae(), "other": sae(**other)}, {"model"})


def test_models_may_differ_in_name_where_one_is_given_for_all() -> None:
    saes = {"a": sae(model_name="gpt2"), "b": sae(model_name="/x/gpt2")}
    check_comparable(saes, {"model"})
    with pytest.raises(ValueError, match="model are .* or give --model"):
        check_comparable(saes)


def test_positions_spelled_otherwise_are_the_same() -> None:
    check_comparable({"a": sae(seqpos_slice=(3,)), "b": sae(seqpos_slice=(None, 3))})


def test_two_model_files_of_one_name_are_two_models() -> None:
    file: dict[str, Any] = {"model_name": "/x", "model_file": "m.gguf"}
    one = sae(**file, model_file_sha256="a")
    other = sae(**file, model_file_sha256="b")
    older = sae(**file)
    with pytest.raises(ValueError, match="model_file_sha256 are 'b' and 'a'"):
        check_comparable({"one": one, "other": other})
    check_comparable({"one": one, "other": other}, {"model"})
    check_comparable({"one": one, "older": older})


def test_two_names_of_one_hook_are_one_hook() -> None:
    hooks = (
        "model.layers.3",
        "blocks.3.hook_resid_post",
    )  # two names of one activation
    check_comparable({hook: sae(hook_name=hook) for hook in hooks})


def test_variants_differ_in_more_than_the_seed() -> None:
    roles = {
        "solo": ["/s0", "/s1"],
        "joint": ["/a0", "/a1", "/b", "/c"],
    }
    saes = [
        trained(0, 0),
        trained(0, 1),
        trained(0.3, 0),
        trained(0.3, 1),
        trained(0.1, 0),
        trained(0.3, 0, k=8),
    ]
    entries = entries_of(roles)
    by_id = {e.id: s for e, s in zip(entries, saes, strict=True)}
    assert list(variants(entries, by_id, {"solo"}).values()) == [
        "solo",
        "solo",
        "joint, lambda_2 0.3, k 4",
        "joint, lambda_2 0.3, k 4",
        "joint, lambda_2 0.1, k 4",
        "joint, lambda_2 0.3, k 8",
    ]
    # which has no sigma^2
    by_id["sae_4"] = trained(1.0, 0, penalty="implied_overlap")
    named = variants(entries, by_id, {"solo"})
    assert named["sae_4"] == "joint, penalty implied_overlap, lambda 1.0, k 4"
    assert named["sae_5"] == "joint, lambda_2 0.3, penalty decomposability, k 8"
    by_id["sae_1"] = trained(0, 1, k=5)
    with pytest.raises(ValueError, match="solo SAEs are not seeds .* differ in k"):
        variants(entries, by_id, {"solo"})


def test_progress_belongs_to_one_comparison(tmp_path: Path) -> None:
    progress = tmp_path / "out" / "progress"
    claim(progress, "refused")  # before it had counted anything
    claim(progress, "mine")
    (progress / "sae_0").mkdir()
    claim(progress, "mine")
    with pytest.raises(ValueError, match="of other SAEs, text or settings"):
        claim(progress, "other")
    (progress / "fingerprint").unlink()  # as a deletion that was killed may leave it
    with pytest.raises(ValueError, match="of other SAEs, text or settings"):
        claim(progress, "mine")
    discard(progress)
    assert list((tmp_path / "out").iterdir()) == []
    claim(progress, "other")


def test_a_fingerprint_is_of_weights_configs_settings_and_text(tmp_path: Path) -> None:
    weights, cfg = tmp_path / "sae_weights.safetensors", tmp_path / "cfg.json"
    weights.write_bytes(b"1")
    cfg.write_text("{}")

    def mine(settings: int = 1, text_sha256: str = "a") -> str:
        return fingerprint(settings, [tmp_path], text_sha256)

    seen = {mine(), mine(settings=2), mine(text_sha256="b")}
    assert mine() in seen and len(seen) == 3
    for path in (weights, cfg):
        path.write_bytes(path.read_bytes() + b" more")
        seen.add(mine())
    assert len(seen) == 5


def test_no_setting_that_defines_activations_can_be_forgotten() -> None:
    # of a model three fields are names, of a hook two
    names = {"model_on_the_hub", "model_file", "hook_in_transformers"}
    assert {f.name for f in fields(Reading)} - names == _MUST_AGREE.keys() - {"d_in"}


def test_groups_of_any_name_are_held_against_a_baseline() -> None:
    groups = {"plain": ["/p0", "/p1"], "matryoshka": ["/m0", "/m1"]}
    with pytest.raises(ValueError, match="There is no solo SAE"):
        entries_of(groups)
    with pytest.raises(ValueError, match="There is no joint SAE"):
        entries_of({"plain": ["/p0"]}, "plain")
    entries = entries_of(groups, "plain")
    saes = {
        e.id: sae(training_architecture_details={"k": k})
        for e, k in zip(entries, (4, 4, 4, 8), strict=True)
    }
    names = list(variants(entries, saes, {"plain"}).values())
    assert names == ["plain", "plain", "matryoshka, k 4", "matryoshka, k 8"]


def test_the_baseline_comes_first_and_its_control_next() -> None:
    groups = {name: [Path(name)] for name in ("joint", "control", "plain", "other")}
    cfg = CompareConfig(groups=groups, baseline="plain", control="control")
    assert list(cfg.groups) == ["plain", "control", "joint", "other"]
    without = CompareConfig(groups={"joint": [], "solo": []})
    assert list(without.groups) == ["solo", "joint"]
