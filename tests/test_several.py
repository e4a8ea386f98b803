"""Recipes for several hooks, read in one pass, come to what each comes to by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from sae_lens import ActivationsStore

from sae_lens_meta.destination import held
from sae_lens_meta.reproduce import needs
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from sae_lens_meta.reproduce.several import reproduce_several
from tests.recipes import all_weights, plain_recipe

pytestmark = pytest.mark.usefixtures("small_shards")
HOOKS = {"zero": "model.layers.0", "one": "model.layers.1"}


@pytest.fixture
def n_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each call of the language model for activations to keep."""
    found: list[int] = []
    read = ActivationsStore.get_multi_hook_activations

    def counted(self: ActivationsStore, tokens: torch.Tensor) -> Any:
        found.append(tokens.numel())
        return read(self, tokens)

    monkeypatch.setattr(ActivationsStore, "get_multi_hook_activations", counted)
    return found


def recipe(model: Path, folder: Path, release: str, **changes: Any) -> str:
    changes = {"release": release, "hook": HOOKS.get(release, release)} | changes
    path = folder / f"{release}.yaml"
    path.write_text(yaml.safe_dump(plain_recipe(model, seeds=[1], **changes)))
    return str(path)


def run_all(names: list[str], folder: Path, **asked: Any) -> dict[str, Any]:
    cfg = ReproduceConfig(output=folder, **asked)
    return reproduce_several(names, cfg, Console(quiet=True))


@pytest.mark.parametrize("in_parts", [False, True])
def test_each_run_comes_to_what_it_comes_to_alone_after_one_pass(
    model: Path, tmp_path: Path, n_passes: list[int], in_parts: bool
) -> None:
    names = [recipe(model, tmp_path, release) for release in HOOKS]
    for name, release in zip(names, HOOKS, strict=True):
        asked = ReproduceConfig(tmp_path / "alone" / release, ["cache", "train"])
        reproduce(name, asked, Console(quiet=True))
    alone, n_passes[:] = sum(n_passes), []
    folder = tmp_path / "together"
    if in_parts:
        for part in ("2/2", "1/2"):
            assert run_all(names, folder, stage=["cache"], part=part) == {}
    found = run_all(names, folder, stage=["cache", "train"])
    assert alone / 2 <= sum(n_passes) <= alone / 2 + 2 * 8 * 32
    assert found.keys() == HOOKS.keys()
    for release in HOOKS:
        one, other = (
            all_weights(tmp_path / n / release) for n in ("alone", "together")
        )
        assert one.keys() == other.keys() and len(one) > 5
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    a, b = (all_weights(folder / release) for release in HOOKS)
    assert not any(torch.equal(tensor, b[name]) for name, tensor in a.items())
    n_passes.clear()
    assert run_all(names, folder, stage=["cache"])["one"].keys() == {"cache"}
    assert n_passes == [], "what is there is not read again"


def test_what_cannot_be_read_in_one_pass_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero, one = (recipe(model, tmp_path, release) for release in HOOKS)
    other = recipe(model, tmp_path, "other", hook=HOOKS["one"], text_seed=7)
    loose = recipe(model, tmp_path, "loose", hook=HOOKS["one"], cache_activations=False)
    same = recipe(model, tmp_path, "same", hook=HOOKS["zero"])
    for names, asked, message in (
        ([zero, other], {}, "'zero' has text_seed 42 and 'other' has 7"),
        ([zero, loose], {}, "'loose' keeps no activations"),
        ([zero, same], {}, "differ in hook; got .*model.layers.0.*model.layers.0"),
        ([one, one], {}, "differ in release; got .*one.*one"),
        ([zero, one], {"only": "joint_1"}, "--only goes with one recipe; got 2"),
        ([zero, one], {"repo": "you/them"}, "--repo goes with one recipe"),
        ([zero, one], {"rehearse": True}, "--rehearse goes with one recipe"),
        ([zero, one], {"stage": ["cache", "trian"]}, "'zero' has no stage 'trian'"),
        ([zero, one], {"part": "1/2"}, "give --stage cache too"),
    ):
        with pytest.raises(ValueError, match=message):
            run_all(names, tmp_path / "run", **asked)
        assert not (tmp_path / "run").exists()
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: type("", (), {"free": 1}))
    with pytest.raises(
        ValueError, match="activations of 2 recipes take .* GB are free"
    ):
        run_all([zero, one], tmp_path / "run")
    # what an earlier call has written needs no room again
    (tmp_path / "run" / "zero" / "written").write_bytes(bytes(2**20))
    monkeypatch.setattr("sae_lens_meta.reproduce.several.reproduce", lambda *_: {})
    assert run_all([zero, one], tmp_path / "run").keys() == HOOKS.keys()


def test_a_run_that_another_process_holds_is_not_read_into(
    model: Path, tmp_path: Path, n_passes: list[int]
) -> None:
    names = [recipe(model, tmp_path, release) for release in HOOKS]
    with (
        held(tmp_path / "run" / "one"),
        pytest.raises(ValueError, match="one is being written by another run"),
    ):
        run_all(names, tmp_path / "run", stage=["cache"])
    assert n_passes == []
