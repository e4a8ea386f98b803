"""Rehearsals: the whole recipe on random weights, warm start included."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from safetensors.torch import load_file

from sae_lens_meta.reproduce.recipe import load_recipe
from sae_lens_meta.reproduce.rehearsal import random_model, rehearsed
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from tests.recipes import plain_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("smollm2_in_cache")]
SHAPE: dict[str, Any] = {
    "d_model": 24,
    "d_head": 12,
    "n_heads": 2,
    "d_mlp": 32,
    "n_layers": 3,
    "n_ctx": 64,
    "d_vocab": 50257,
    "act_fn": "gelu_new",
    "normalization_type": "LN",
}


def small(tmp_path: Path, **changes: Any) -> Path:
    how = {"architecture": SHAPE, "batch": 128, "tokens": 2048} | changes
    recipe = plain_recipe(
        Path("no/such/model"),
        model_class="HookedTransformer",
        hook="blocks.2.hook_resid_pre",
        continue_tokens=10**9,
        rehearsal=how,
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_rehearsal_runs_every_stage_for_three_cycles(tmp_path: Path) -> None:
    path = small(tmp_path)
    cfg = ReproduceConfig(output=tmp_path / "out", rehearse=True)
    stages = reproduce(str(path), cfg, Console(quiet=True))
    assert list(stages) == [
        "cache", "train", "continue", "equal_l2", "calibrate", "compare", "autointerp",
        "publish",
    ]  # fmt: skip
    # three cycles of five primary steps, and the step that the last meta phase begins
    n_seen = 0
    for stage, n_steps in (("train", 3 * 5 + 1), ("continue", 5)):
        n_seen += n_steps
        (figures,) = (v for k, v in stages[stage].items() if "joint" in k)
        assert figures["n_steps"] == n_steps
        assert figures["moved"]["joint_1"] > 0.01
        folder = tmp_path / "out" / "checkpoints" / "0" / f"final_{n_seen * 128}"
        assert folder.is_dir()
    # in so few steps the solo SAE does not overtake the joint one
    assert "no solo_equal_l2_1 beside" in stages["compare"]["warnings"][0]
    state = load_file(folder / "joint_1" / "sae_weights.safetensors")
    assert int(state["meta_sae.adam_step"]) == 2 * ((n_seen - 1) // 5)
    assert stages["publish"]["uploaded"] is False
    card = (tmp_path / "out" / "publish" / "README.md").read_text()
    assert "base_model: random weights, no/such/model" in card
    assert "worth nothing" in card and "nobody/tiny" not in card
    with pytest.raises(ValueError, match="A rehearsal is never published"):
        cfg.repo = "tests/tiny"
        reproduce(str(path), cfg, Console(quiet=True))


def test_a_rehearsals_model_has_the_true_shape_or_fewer_layers(tmp_path: Path) -> None:
    recipe = rehearsed(load_recipe(str(small(tmp_path))), "pydoc")
    model = random_model(recipe, "cpu")
    assert (model.cfg.n_layers, model.cfg.d_vocab, model.cfg.d_model) == (3, 50257, 24)
    fewer = small(tmp_path, n_layers=1, hook="blocks.0.hook_resid_pre")
    recipe = rehearsed(load_recipe(str(fewer)), "pydoc")
    assert recipe.hook == "blocks.0.hook_resid_pre"
    assert random_model(recipe, "cpu").cfg.n_layers == 1
