"""An earlier comparison in the folder is given again, refused, or replaced but for its scores."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sae_lens_meta.comparison.run as compare_module
from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.part import parts
from sae_lens_meta.autointerp.results import (
    AutointerpSummary,
    ScoreMean,
)
from sae_lens_meta.cli import main
from sae_lens_meta.comparison.config import CompareConfig
from sae_lens_meta.comparison.earlier import extras_to_keep, made_before
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.report.attached import scores_of
from sae_lens_meta.report.scores import attached
from tests.comparisons import compared, comparison
from tests.tiny_llama import save_trained


def saved(folder: Path) -> Path:
    """A comparison with a judge's scores."""
    made = comparison([compared("joint", "joint", 0.1), compared("solo", "solo", 0.2)])
    made.fingerprint = "mine"
    made.settings["min_fired"] = 30
    means = [ScoreMean("detection", 0.7, None, 5, 5, {})]
    summary = AutointerpSummary(
        judge="a judge",
        prompt_version=1,
        means={"joint": means, "solo": means, "random directions": means},
        shuffled={},
        pair=["joint", "solo"],
        differences=[],
    )
    made.extras["autointerp"] = attached(summary, made)
    return made.save(folder)


def entries(**sha256: str) -> Any:
    return [
        SimpleNamespace(name=name, saved=SimpleNamespace(weights_sha256=value))
        for name, value in sha256.items()
    ]


def test_the_same_comparison_is_given_again_and_another_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "comparison.json"
    assert made_before(path, "mine", 30, overwrite=False) is None
    saved(tmp_path)
    with pytest.warns(UserWarning, match="holds this comparison already, made 2026-"):
        found = made_before(path, "mine", 30, overwrite=False)
    assert found == Comparison.load(path)
    for fingerprint, min_fired in [("other", 30), ("mine", 31)]:
        with pytest.raises(ValueError, match="other SAEs, text or settings.*overwrite"):
            made_before(path, fingerprint, min_fired, overwrite=False)
    assert made_before(path, "mine", 30, overwrite=True) is None
    path.write_text(path.read_text()[:1000])
    with pytest.raises(ValueError, match="another version"):
        made_before(path, "mine", 30, overwrite=False)


def test_a_judges_scores_stay_with_their_weights_and_go_with_a_word(
    tmp_path: Path,
) -> None:
    path = tmp_path / "comparison.json"
    assert extras_to_keep(path, entries(joint="x")) == {}
    saved(tmp_path)
    found = Comparison.load(path)
    same = {sae.name: sae.weights_sha256 for sae in found.saes}
    assert extras_to_keep(path, entries(**same, more="y")) == found.extras != {}
    for others in ({**same, "solo": "other"}, {"joint": same["joint"]}):
        with pytest.warns(UserWarning, match="judge 'a judge' .* dropped: .* of solo "):
            assert extras_to_keep(path, entries(**others)) == {}


@pytest.fixture
def pair(model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A joint and a solo SAE."""
    joint = save_trained(model, tmp_path / "joint", init_seed=0)
    off = {"decomposability_coefficient": 0, "init_seed": 1}
    return joint, save_trained(model, tmp_path / "solo", **off)


@pytest.mark.slow
def test_compare_measures_once_and_again_only_if_asked(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint, solo = pair
    fast = "--tokens 2048 --ce_tokens 512 --n_candidates 0 --meta_steps 2"
    output = tmp_path / "out"
    call = f"compare --joint {joint} --solo {solo} {fast} --output {output}".split()
    n_passes = 0
    run_passes = compare_module.run_passes

    def counted(*args: Any) -> None:
        nonlocal n_passes
        n_passes += 1
        run_passes(*args)

    monkeypatch.setattr(compare_module, "run_passes", counted)
    main(call)
    before = (output / "comparison.json").read_text()
    with pytest.warns(UserWarning, match="Nothing was measured"):
        main(call)
    with pytest.raises(SystemExit, match="holds a comparison of other SAEs, text or"):
        main([*call, "--min_fired", "20"])
    assert (output / "comparison.json").read_text() == before
    assert n_passes == 1

    plain = json.loads(before)
    plain["extras"] = json.loads(saved(tmp_path).read_text())["extras"]
    weights = {sae["name"]: sae["weights_sha256"] for sae in plain["saes"]}
    plain["extras"]["autointerp"]["weights"] = weights
    (output / "comparison.json").write_text(json.dumps(plain))
    main([*call, "--overwrite"])
    assert n_passes == 2
    found = Comparison.load(output / "comparison.json")
    scores = scores_of(found)
    assert scores is not None and scores.judge == "a judge"
    assert found.created >= plain["created"]


@pytest.mark.slow
def test_what_parts_have_counted_is_not_counted_again(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint, solo = pair
    groups = {"solo": [solo], "joint": [joint]}
    cfg = CompareConfig(groups=groups, output=tmp_path / "out", ce_tokens=512)
    cfg.n_candidates, cfg.meta_steps = 0, 2
    source = SourceConfig(dataset="pydoc", tokens=2048)
    for part in parts(3):
        compare_module.count_part(cfg, source, part)

    def again(*_: Any) -> None:
        raise AssertionError("tokens are counted again")

    monkeypatch.setattr("sae_lens_meta.comparison.counting._PassState.update", again)
    found = compare_module.compare(cfg, source)
    assert found.n_tokens == 2048
