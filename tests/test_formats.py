"""Files of ours carry the number of their format: kept ones are read, later ones are refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from sae_lens import SAE, TrainingSAE

from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.reproduce.recipe import load_recipe, recipes_folder
from sae_lens_meta.training.config import FORMAT_KEY
from sae_lens_meta.zoo.releases import load_zoo, zoo_path
from tests.helpers import forward, meta_config, sparse_batches, train

KEPT = Path(__file__).with_name("golden")
# of the kept checkpoint's next step on the first batch of seed 1
NEXT_LOSS, NEXT_PENALTY = 7.502658843994141, 2.872023344039917
LATER = "is of format 99, and this version of sae-lens-meta reads 1. Update"


def test_the_kept_checkpoint_goes_on() -> None:
    sae = TrainingSAE.load_from_disk(KEPT / "checkpoint_1")
    output = forward(sae, next(sparse_batches(seed=1)))
    assert output.loss.item() == pytest.approx(NEXT_LOSS, rel=1e-5)
    penalty = output.losses["decomposability_loss"].item()
    assert penalty == pytest.approx(NEXT_PENALTY, rel=1e-5)


def test_the_kept_sae_is_read_by_stock_saelens() -> None:
    sae = SAE.load_from_disk(KEPT / "sae_1")
    x = next(sparse_batches(seed=1))
    assert (sae.encode(x) > 0).sum(-1).float().mean() == pytest.approx(4, abs=1.5)
    assert sae.cfg.metadata[FORMAT_KEY] == 1
    error = (sae(x) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert error < 0.5


def test_the_kept_comparison_of_an_earlier_format_is_read() -> None:
    found = Comparison.load(KEPT / "comparison_4.json")
    assert found.format == 5 and len(found.saes) >= 2 and found.differences


def test_the_kept_recipe_and_list_of_releases_are_read() -> None:
    recipe = load_recipe(str(KEPT / "recipe_1.yaml"))
    assert recipe.joint.d_sae == 4096 and recipe.format == 1
    zoo = load_zoo(KEPT / "pretrained_1.yaml")
    assert len(zoo.releases) == 3 and zoo.format == 1


def test_files_of_a_later_format_are_refused_with_what_to_do(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(KEPT / "checkpoint_1", checkpoint)
    cfg = json.loads((checkpoint / "cfg.json").read_text())
    cfg["metadata"][FORMAT_KEY] = 99
    (checkpoint / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match=f"This SAE {LATER}"):
        TrainingSAE.load_from_disk(checkpoint)
    for name, source, load in (
        ("recipe.yaml", next(recipes_folder().glob("*.yaml")), load_recipe),
        ("pretrained.yaml", zoo_path(), load_zoo),
    ):
        later = yaml.safe_load(source.read_text()) | {"format": 99}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(later))
        with pytest.raises(ValueError, match=f"(?s){path}.*it {LATER}"):
            load(str(path) if load is load_recipe else path)  # type: ignore[arg-type]


def test_what_is_written_today_says_its_format(tmp_path: Path) -> None:
    for path in (*recipes_folder().glob("*.yaml"), zoo_path()):
        assert yaml.safe_load(path.read_text())["format"] == 1
    train(meta_config(), 2).save_inference_model(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["metadata"][FORMAT_KEY] == 1
