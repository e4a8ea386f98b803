"""Recipes: the paper's values as SAELens reads them, and what can be wrong with one."""

import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from transformer_lens.loading_from_pretrained import get_pretrained_model_config
from transformers import GPT2Config

from sae_lens_meta.reproduce.recipe import load_recipe, recipes_folder
from sae_lens_meta.zoo.releases import load_zoo

# of the paper's table: tokens, d_in, d_sae, k, meta latents, meta k; Gemma's meta SAE is of the
# author's script
PAPER = {
    "metasae-gpt2l-l20": (100_000_000, 1280, 20_480, 64, 1800, 8),
    "metasae-gemma2-9b-l23": (75_000_000, 3584, 65_536, 100, 5000, 8),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers_configuration_as_saelens_reads_it(name: str) -> None:
    recipe = load_recipe(name)
    cfg, sae = recipe.training, recipe.joint
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
    assert recipe.dataset == "HuggingFaceFW/fineweb:sample-10BT"


def test_only_gemma_goes_on_for_the_papers_300_million_tokens() -> None:
    tokens = {path.stem: load_recipe(path.stem) for path in recipes_folder().glob("*")}
    assert {n: r.continue_tokens for n, r in tokens.items() if r.continue_tokens} == {
        "metasae-gemma2-9b-l23": 300_000_000
    }
    # 375 million, the last batch being a whole one
    assert tokens["metasae-gemma2-9b-l23"].n_tokens == 91_553 * 4096


@pytest.mark.parametrize("name", PAPER)
def test_each_seed_has_a_joint_sae_and_a_solo_one_that_differs_in_its_penalty_alone(
    name: str,
) -> None:
    recipe = load_recipe(name)
    saes = recipe.saes()
    assert len(saes) == 2 * len(recipe.seeds) >= 6
    for seed in recipe.seeds:
        joint, solo = (saes[f"{kind}_{seed}"].to_dict() for kind in ("joint", "solo"))
        differing = {key for key in joint if joint[key] != solo[key]}
        assert differing - {"metadata"} == {"decomposability_coefficient"}
        assert solo["decomposability_coefficient"] == 0
        assert joint["init_seed"] == seed


def test_the_rehearsals_architectures_are_those_of_the_models() -> None:
    gemma = load_recipe("metasae-gemma2-9b-l23").rehearsal
    gpt2 = load_recipe("metasae-gpt2l-l20").rehearsal
    assert gemma is not None and gpt2 is not None
    known = get_pretrained_model_config("google/gemma-2-9b").to_dict()
    if Version(version("transformer-lens")) < Version("3"):
        # which has local and global layers the wrong way round
        known["attn_types"] = gemma.architecture["attn_types"]
    assert {k: known[k] for k in gemma.architecture} == gemma.architecture

    gpt2_large = GPT2Config(n_embd=1280, n_layer=36, n_head=20)
    wanted = {
        "d_model": gpt2_large.n_embd,
        "d_head": gpt2_large.n_embd // gpt2_large.n_head,
        "n_heads": gpt2_large.n_head,
        "d_mlp": 4 * gpt2_large.n_embd,
        "n_layers": gpt2_large.n_layer,
        "n_ctx": gpt2_large.n_positions,
        "d_vocab": gpt2_large.vocab_size,
        "act_fn": gpt2_large.activation_function,
    }
    assert {k: gpt2.architecture[k] for k in wanted} == wanted
    assert gpt2.n_layers is None  # all of them are built


def test_every_release_without_weights_names_a_recipe_that_fits_it() -> None:
    for release in load_zoo().releases:
        if release.published or release.bundled:
            continue
        assert release.command is not None
        command, action, name = shlex.split(release.command)
        assert (command, action) == ("sae-lens-meta", "reproduce")
        recipe = load_recipe(name)
        assert (recipe.model, recipe.hook) == (release.model, release.hook)
        assert recipe.release == release.name
        assert recipe.publish.licence == release.licence
        tokens = [recipe.training.training_tokens, recipe.continue_tokens]
        said = " + ".join(f"{n / 1e6:.0f} M" for n in tokens if n)
        assert release.training.startswith(f"{said} tokens of ")


def test_a_recipe_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="no recipe 'metasae-gpt2'. There are: metasae-gpt2l"
    ):
        load_recipe("metasae-gpt2")
    plain = yaml.safe_load(
        (recipes_folder() / "metasae-gpt2l-l20.yaml").read_text(encoding="utf-8")
    )
    broken = [
        plain | {"z": 1},
        plain | {"seeds": []},
        plain | {"sae": plain["sae"] | {"k": -1}},
        plain | {"sae": plain["sae"] | {"unknown": 1}},
        plain | {"runner": plain["runner"] | {"unknown": 1}},
        plain | {"compare": {"unknown": 1}},
        plain | {"autointerp": {"latents": 0}},
        {key: value for key, value in plain.items() if key != "hook"},
    ]
    for recipe in (*map(yaml.safe_dump, broken), "a: [", "- 1"):
        (tmp_path / "r.yaml").write_text(recipe)
        with pytest.raises(ValueError, match="is not a recipe"):
            load_recipe(str(tmp_path / "r.yaml"))
