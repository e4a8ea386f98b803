"""Recipes: the paper's values as SAELens reads them, and what can be wrong with one."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from sae_lens.llm_sae_training_runner import _parse_cfg_args

from sae_lens_meta.recipe import load_recipe, recipes_folder, with_recipe
from sae_lens_meta.releases import load_zoo

# of the paper's table: tokens, d_in, d_sae, k, meta latents, meta k
PAPER = {
    "metasae-gpt2l-l20": (100_000_000, 1280, 20_480, 64, 1800, 8),
    "metasae-gemma2-9b-l23": (75_000_000, 3584, 65_536, 100, 5000, 8),
}


def parsed(*args: str) -> Any:
    """The config that `sae-lens-meta train` would run."""
    return _parse_cfg_args(["--architecture", "meta", *with_recipe(args)])


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers_configuration_as_saelens_reads_it(name: str) -> None:
    cfg = parsed("--recipe", name)
    sae = cfg.sae
    assert PAPER[name] == (
        cfg.training_tokens,
        sae.d_in,
        sae.d_sae,
        sae.k,
        sae.meta_d_sae,
        sae.meta_k,
    )
    assert (sae.decomposability_coefficient, sae.decomposability_bandwidth) == (0.3, 1)
    assert (sae.primary_steps_per_cycle, sae.meta_steps_per_cycle) == (10, 5)
    assert (cfg.lr, sae.meta_lr, cfg.adam_beta1, cfg.adam_beta2) == (
        3e-4,
        3e-4,
        0.9,
        0.99,
    )
    assert (sae.meta_adam_beta1, sae.meta_adam_beta2) == (0.9, 0.99)
    assert (cfg.context_size, cfg.train_batch_size_tokens) == (128, 4096)
    assert sae.normalize_activations == "layer_norm"
    assert sae.aux_loss_coefficient == 1 / 32
    assert (cfg.is_dataset_tokenized, cfg.streaming) == (False, True)


def test_every_release_without_weights_names_a_recipe_that_fits_it() -> None:
    for release in load_zoo().releases:
        assert release.command is not None
        command, action, *args = shlex.split(release.command)
        assert (command, action) == ("sae-lens-meta", "train")
        cfg = parsed(*args)
        assert (cfg.model_name, cfg.hook_name) == (release.model, release.hook)
        assert load_recipe(release.name).release == release.name


def test_what_is_given_beside_a_recipe_wins() -> None:
    cfg = parsed("--k", "32", "--recipe", "metasae-gpt2l-l20", "--training_tokens=1000")
    assert (cfg.sae.k, cfg.training_tokens, cfg.sae.d_sae) == (32, 1000, 20_480)
    path = str(recipes_folder() / "metasae-gpt2l-l20.yaml")
    assert parsed("--recipe", path).sae.k == 64


def test_a_recipe_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="no recipe 'metasae-gpt2'. There are: metasae-gpt2l"
    ):
        with_recipe(["--recipe", "metasae-gpt2"])
    with pytest.raises(ValueError, match="takes the name of a recipe"):
        with_recipe(["--k", "3", "--recipe"])
    for text in (
        "release: x\n",
        "release: x\ntrain: {k: [1]}\n",
        "a: [",
        "release: x\ntrain: {}\nz: 1\n",
    ):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ValueError, match="is not a recipe"):
            load_recipe(str(tmp_path / "r.yaml"))
