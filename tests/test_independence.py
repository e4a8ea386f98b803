"""One SAE is one piece of evidence, given as what it was trained as."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from safetensors.torch import load_file, save_file

from sae_lens_meta.comparison.independence import (
    check_members,
    other_texts,
    repeated_trainings,
)
from sae_lens_meta.comparison.members import Entry, named_entries
from sae_lens_meta.comparison.verdict import verdict
from sae_lens_meta.measures.evidence import calibrated
from sae_lens_meta.saved import SavedSAE, TrainingText
from sae_lens_meta.statistics.intervals import percent_over_seeds
from tests.comparisons import compared, comparison


def trained(
    folder: Path, coefficient: float | None, seed: int = 0, **metadata: Any
) -> Path:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=4, d_sae=8))
    settings: dict[str, Any] = {"k": 4, "init_seed": seed}
    if coefficient is not None:
        settings["decomposability_coefficient"] = coefficient
    sae.cfg.metadata.training_architecture_details = settings
    for key, value in metadata.items():
        setattr(sae.cfg.metadata, key, value)
    sae.save_model(folder)
    return folder


def check(**groups: list[Path]) -> list[Entry]:
    entries = named_entries(groups, "solo")
    check_members(entries, {entry.id: entry.saved for entry in entries})
    return entries


def repeated(entries: list[Entry]) -> list[str]:
    return repeated_trainings(entries, {entry.id: entry.saved for entry in entries})


def test_one_sae_copied_is_refused(tmp_path: Path) -> None:
    joint, solo = trained(tmp_path / "joint", 0.3), trained(tmp_path / "solo", 0)
    copies = [Path(shutil.copytree(solo, tmp_path / f"copy_{i}")) for i in range(2)]
    check(joint=[joint], solo=[solo])
    with pytest.raises(
        ValueError, match="'solo' and 'copy_0' and 'copy_1' have the same"
    ):
        check(joint=[joint], solo=[solo, *copies])
    joint_copy = Path(shutil.copytree(joint, tmp_path / "other"))
    with pytest.raises(ValueError, match="'joint' and 'other' have the same weights"):
        check(joint=[joint, joint_copy], solo=[solo])


def test_roles_are_checked_by_the_recorded_coefficient(tmp_path: Path) -> None:
    joint, solo = trained(tmp_path / "joint", 0.3), trained(tmp_path / "solo", 0)
    with pytest.raises(ValueError, match="'solo' is given as joint, .*=0, .* --solo"):
        check(joint=[solo], solo=[joint])
    with pytest.raises(ValueError, match="'joint' is given as solo, .*=0.3.* --joint"):
        check(joint=[trained(tmp_path / "other", 0.3, seed=1)], solo=[joint])
    with pytest.raises(ValueError, match="is given as solo_equal_l2"):
        check(joint=[joint], solo=[solo], solo_equal_l2=[trained(tmp_path / "j2", 0.1)])
    # another objective, which records no such coefficient
    check(joint=[joint], solo=[trained(tmp_path / "batchtopk", None)])


def test_thresholds_taken_in_different_ways_are_not_compared(tmp_path: Path) -> None:
    def calibrated(name: str, coefficient: float, rule: str) -> Path:
        how = {"rule": rule, "n_tokens": 4096}
        return trained(tmp_path / name, coefficient, calibration=how)

    joint = calibrated("joint", 0.3, "rate")
    check(joint=[joint], solo=[calibrated("same", 0, "rate")])
    with pytest.raises(
        ValueError, match="joint: calibrated by the rule 'rate'; solo: not calib"
    ):
        check(joint=[joint], solo=[trained(tmp_path / "solo", 0)])
    with pytest.raises(ValueError, match="'rate'; error: .*'equal_error'.* calibrate"):
        check(joint=[joint], solo=[calibrated("error", 0, "equal_error")])


def test_reruns_with_one_seed_are_named(tmp_path: Path) -> None:
    joint = trained(tmp_path / "joint", 0.3, seed=0, data_seed=0)

    def solos(**changes: list[Any]) -> list[Path]:
        each = [
            dict(zip(changes, values, strict=True))
            for values in zip(*changes.values(), strict=True)
        ]
        return [
            trained(tmp_path / f"{abs(hash(str(changes)))}_{i}", 0, **one)
            for i, one in enumerate(each)
        ]

    same = check(joint=[joint], solo=solos(seed=[1, 1], data_seed=[1, 1]))
    assert "same settings, seed and order" in repeated(same)[0]
    unknown = check(joint=[joint], solo=solos(seed=[1, 1]))
    assert len(repeated(unknown)) == 1
    seeds = check(joint=[joint], solo=solos(seed=[1, 2], data_seed=[1, 1]))
    assert repeated(seeds) == []
    orders = check(joint=[joint], solo=solos(seed=[1, 1], data_seed=[1, 2]))
    assert repeated(orders) == []
    one_unknown = check(joint=[joint], solo=solos(seed=[1, 1], data_seed=[None, 0]))
    assert len(repeated(one_unknown)) == 1, "it may be of the same order"


SOLO = [compared(f"solo_{i}", "solo", 6.0e-3 + i * 1e-5) for i in range(3)]
CONTROL = compared("control", "solo_equal_l2", 5.9e-3, l2=0.11)
JOINT = [compared(f"joint_{i}", "joint", 5.5e-3 + i * 1e-5, l2=0.11) for i in range(2)]


def test_repeated_trainings_forbid_a_claim() -> None:
    made = comparison([*SOLO, CONTROL, *JOINT])
    assert "co-occur less" in verdict(made)[0]
    made.objections = ["'a' and 'b' were trained with the same seed."]
    assert "no claim: 'a' and 'b' were trained" in verdict(made)[0]


def test_an_interval_without_width_supports_no_claim() -> None:
    solo = [compared(f"solo_{i}", "solo", 6.0e-3) for i in range(3)]
    joint = [compared(f"joint_{i}", "joint", 5.5e-3, l2=0.11) for i in range(3)]
    (sentence,) = verdict(comparison([*solo, CONTROL, *joint]))
    assert "no claim: the interval over seeds does not lie below 0" in sentence


def test_the_more_variants_are_tried_the_wider_an_interval_must_be() -> None:
    # chosen so that the interval lies below 0 at 95 %, and not at 1 - 0.05 / 4
    values = [5.935e-3, 5.96e-3, 5.985e-3]
    base = [sae.phi_compared.corrected for sae in SOLO]
    usual, wider = (percent_over_seeds(values, base, 1 - 0.05 / n) for n in (1, 4))
    assert usual and wider and usual.high < 0 < wider.high

    def variant(name: str) -> list[Any]:
        return [
            compared(f"{name}_{i}", "joint", phi, l2=0.11, variant=name)
            for i, phi in enumerate(values)
        ]

    one = verdict(comparison([*SOLO, CONTROL, *variant("a")]))
    assert "interval over seeds" not in one[0]
    four = [sae for name in "abcd" for sae in variant(name)]
    sentences = verdict(comparison([*SOLO, CONTROL, *four]))
    assert len(sentences) == 4
    for sentence in sentences:
        assert "no claim: the interval over seeds does not lie below 0" in sentence


def test_thresholds_at_another_k_are_another_rule(tmp_path: Path) -> None:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=4, d_sae=8))
    sae.cfg.metadata.training_architecture_details = {"k": 4}
    said = {}
    for k in (4, 8):
        sae.cfg.metadata.calibration = {"rule": "rate", "n_tokens": 100, "k": k}
        sae.save_model(tmp_path / str(k))
        said[k] = calibrated(SavedSAE.read(tmp_path / str(k)))
    assert said[4] == "calibrated by the rule 'rate'"
    assert said[8] == f"{said[4]} at k 8, not the 4 that it was trained with"


def test_thresholds_at_different_k_are_refused_where_training_records_none(
    tmp_path: Path,
) -> None:
    groups: dict[str, list[Path]] = {}
    for group, k in (("joint", 8), ("solo", 4)):
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=4, d_sae=8))
        sae.cfg.metadata.calibration = {"rule": "rate", "n_tokens": 100, "k": k}
        sae.save_model(tmp_path / group)
        groups[group] = [tmp_path / group]
    with pytest.raises(ValueError, match=r"'rate' at k 8; solo: .* 'rate' at k 4"):
        check(**groups)


def test_thresholds_read_otherwise_than_recorded_are_taken_in_another_way(
    tmp_path: Path,
) -> None:
    how: dict[str, Any] = {"rule": "rate", "n_tokens": 4096, "overridden": {}}
    joint = trained(tmp_path / "joint", 0.3, calibration=how)
    same = trained(tmp_path / "same", 0, calibration=how)
    check(joint=[joint], solo=[same])
    how |= {"overridden": {"prepend_bos": False, "context_size": 32}}
    solo = trained(tmp_path / "solo", 0, calibration=how)
    with pytest.raises(
        ValueError, match="solo: .*, read with --context_size 32, --prepend_bos False"
    ):
        check(joint=[joint], solo=[solo])


def test_saes_of_different_texts_forbid_a_claim() -> None:
    def trained_on(sha256: str) -> Any:
        text = TrainingText(name="x", sha256=sha256, held_out=10, seed=42)
        return SimpleNamespace(text=text)

    names = ("a", "b", "c")
    entries: Any = [SimpleNamespace(id=name, name=name) for name in names]
    same = {name: trained_on("1") for name in names}
    assert other_texts(entries, same) == []
    (sentence,) = other_texts(entries, same | {"c": trained_on("2")})
    assert sentence.startswith("'a' and 'c' were trained on different texts")


def test_a_copy_with_another_header_is_the_same_sae(tmp_path: Path) -> None:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=4, d_sae=8))
    sae.save_model(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    weights = tmp_path / "b" / "sae_weights.safetensors"
    save_file(load_file(weights), weights, metadata={"note": "another header"})
    a, b = SavedSAE.read(tmp_path / "a"), SavedSAE.read(tmp_path / "b")
    assert a.weights_sha256 != b.weights_sha256 and a.tensors_sha256 == b.tensors_sha256
    with pytest.raises(ValueError, match="have the same weights"):
        check_members(
            named_entries({"solo": [a.path], "x": [b.path]}, "solo"),
            {"sae_0": a, "sae_1": b},
        )


def test_a_config_that_was_changed_is_of_another_sae(tmp_path: Path) -> None:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=4, d_sae=8))
    sae.save_model(tmp_path)
    measured = compared("solo", "solo", 1e-3)
    measured.weights_sha256 = SavedSAE.read(tmp_path).weights_sha256
    measured.config_sha256 = SavedSAE.read(tmp_path).config_sha256
    assert measured.is_of(SavedSAE.read(tmp_path))
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    for change, is_same in [
        ({"device": "cuda", "metadata": {"x": 1}}, True),
        ({"apply_b_dec_to_input": not cfg["apply_b_dec_to_input"]}, False),
        ({"normalize_activations": "layer_norm"}, False),
    ]:
        (tmp_path / "cfg.json").write_text(json.dumps(cfg | change))
        assert measured.is_of(SavedSAE.read(tmp_path)) == is_same
