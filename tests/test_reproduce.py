"""`sae-lens-meta reproduce`: every stage, what it leaves, and what it refuses."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from sae_lens import SAE
from safetensors.torch import load_file

from sae_lens_meta import releases
from sae_lens_meta.evaluation.comparison import Comparison
from sae_lens_meta.recipe import load_recipe
from sae_lens_meta.reproduce import cache, needs
from sae_lens_meta.reproduce.cache import CachedActivations
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import store_matrices
from sae_lens_meta.reproduce.training import newest_checkpoint, train_together
from tests.hub_server import WRITER, HubServer
from tests.judges import Guesser, JudgeServer, judge_server
from tests.tiny_llama import CONTEXT, HOOK, WIDTH, save_tiny_llama

BATCH, STEPS = 128, 24
FEW = {"latents": 4, "window": 8, "explaining": 2, "active": 2, "boundary": 0}
FEW |= {"silent": 2, "shown": 4}


def plain_recipe(model: Path, **changes: Any) -> dict[str, Any]:
    sae = {"d_in": WIDTH, "d_sae": 96, "k": 4, "meta_d_sae": 12, "meta_k": 2}
    sae |= {"meta_lr": 1e-2, "primary_steps_per_cycle": 5, "meta_steps_per_cycle": 2}
    runner = {"training_tokens": STEPS * BATCH, "train_batch_size_tokens": BATCH}
    runner |= {"context_size": CONTEXT, "lr": 3e-3, "n_checkpoints": 3}
    runner |= {"store_batch_size_prompts": 8}
    recipe = {
        "release": "tiny",
        "model": str(model),
        "model_class": "AutoModelForCausalLM",
        "hook": HOOK,
        "dataset": "pydoc",
        "held_out": {"compare": 20, "select": 15},
        "seeds": [1, 2],
        "sae": sae,
        "runner": runner,
        "cache_activations": True,
        "matrices": "bfloat16",
        "calibrate_tokens": 2048,
        "compare_tokens": 6000,
        "compare": {"ce_tokens": 512, "min_fired": 5},
        "autointerp": FEW,
        "publish": {"base_model": "nobody/tiny", "licence": "mit"},
    }
    return recipe | changes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> Path:
    return written(tmp_path, plain_recipe(model))


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server(JudgeServer(answer=Guesser().answer)) as running:
        yield running


def written(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run_of(path: Path, folder: Path, names: list[str] | None = None) -> Run:
    recipe = load_recipe(str(path))
    return Run(recipe, folder, "cpu", groups=[names or list(recipe.saes())])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        str(p.relative_to(folder)): t
        for p in sorted(folder.rglob("sae_weights.safetensors"))
        for t in [load_file(p)["W_dec"]]
    }


def train(run: Run, n_tokens: int, output: Path) -> dict[str, torch.Tensor]:
    store = run.cached("train", 2 * STEPS * BATCH, None)
    cfg = run.runner_config(run.groups[0], n_tokens)
    train_together(cfg, store, output / "checkpoints", output / "saes", {})
    return weights(output / "saes")


def test_a_training_that_was_killed_goes_on_bit_for_bit(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(recipe, tmp_path / "run")
    whole = train(run, STEPS * BATCH, tmp_path / "whole")
    assert any("meta" in name for name in whole)

    loader = CachedActivations.get_multi_hook_data_loader

    def killed(self: CachedActivations) -> Iterator[dict[str, torch.Tensor]]:
        for i, batch in enumerate(loader(self)):
            if i == 17:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(CachedActivations, "get_multi_hook_data_loader", killed)
    with pytest.raises(KeyboardInterrupt):
        train(run, STEPS * BATCH, tmp_path / "killed")
    newest = newest_checkpoint(tmp_path / "killed" / "checkpoints")
    assert newest is not None and 0 < int(newest.name) < 17 * BATCH
    # one that was being written when it died
    shutil.copytree(newest, newest.with_name(str(16 * BATCH)))
    (newest.with_name(str(16 * BATCH)) / "activations_store_state.safetensors").unlink()
    monkeypatch.setattr(CachedActivations, "get_multi_hook_data_loader", loader)
    resumed = train(run, STEPS * BATCH, tmp_path / "killed")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_warm_start_keeps_both_saes_and_both_optimizers(
    recipe: Path, tmp_path: Path
) -> None:
    """Going on from a training that has ended is the longer training, bit for bit."""
    run = run_of(recipe, tmp_path / "run")
    long = train(run, 2 * STEPS * BATCH, tmp_path / "long")
    short = train(run, STEPS * BATCH, tmp_path / "short")
    warm = train(run, 2 * STEPS * BATCH, tmp_path / "short")
    assert all(torch.equal(warm[name], long[name]) for name in long)
    assert not any(torch.equal(short[name], long[name]) for name in long)


def test_only_the_newest_checkpoint_is_whole_and_solo_weights_stay(
    recipe: Path, tmp_path: Path
) -> None:
    run = run_of(recipe, tmp_path / "run")
    train(run, STEPS * BATCH, tmp_path)
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == f"final_{STEPS * BATCH}"
    folders = sorted((tmp_path / "checkpoints").iterdir())
    assert len(folders) == 4
    for folder in folders:
        files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        for seed in (1, 2):
            assert f"solo_{seed}/sae_weights.safetensors" in files
            whole = {f"{k}_{seed}/trainer_state.pt" for k in ("joint", "solo")}
            assert (whole <= files) == (folder == newest)


@pytest.mark.slow
def test_every_stage_from_the_model_to_the_hub(
    recipe: Path,
    tmp_path: Path,
    server: JudgeServer,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zoo = tmp_path / "pretrained.yaml"
    zoo.write_text(releases.zoo_path().read_text())
    monkeypatch.setattr(releases, "zoo_path", lambda: zoo)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    folder = tmp_path / "run"
    cfg = ReproduceConfig(
        output=folder,
        judge_url=server.url,
        judge_model="guesser",
        repo="tests/tiny",
        stage=["cache", "train", "equal_l2", "calibrate", "compare", "autointerp"],
    )
    console = Console(record=True, width=100)
    stages = reproduce(str(recipe), cfg, console)
    assert list(stages) == cfg.stage
    shown = console.export_text()
    assert "What tiny takes" in shown and "memory while training" in shown

    for seed in (1, 2):
        joint, solo, equal = (
            SAE.load_from_disk(folder / "saes" / f"{kind}_{seed}")
            for kind in ("joint", "solo", "solo_equal_l2")
        )
        for sae in (joint, solo, equal):
            calibration = sae.cfg.metadata.calibration
            assert calibration["n_tokens"] == 2048
            assert sae.cfg.metadata.held_out == {"documents": 35, "text_seed": 42}
        found = stages["equal_l2"][f"solo_equal_l2_{seed}"]
        steps = {
            int(p.name.split("_")[-1]) for p in (folder / "checkpoints/0").iterdir()
        }
        assert found["n_tokens"] in steps
    comparison = Comparison.load(folder / "comparison" / "comparison.json")
    roles = [sae.role for sae in comparison.saes]
    assert [roles.count(r) for r in ("joint", "solo", "solo_equal_l2")] == [2, 2, 2]
    assert comparison.autointerp is not None
    assert (folder / "comparison" / "report.html").is_file()

    # what is done is not done again, and a later call goes on
    before = len(server.requests)
    cfg.stage = []
    stages = reproduce(str(recipe), cfg, console)
    assert len(server.requests) == before
    assert stages["publish"]["uploaded"] is True
    assert "tests/tiny" in hub.repos
    assert releases.load_zoo().releases[-1].name == "tiny"
    state = json.loads((folder / "run.json").read_text())
    assert set(state["stages"]) == set(stages)
    assert all(stage["seconds"] >= 0 for stage in state["stages"].values())


def test_the_solo_at_equal_l2_is_the_checkpoint_nearest_to_the_joint_sae(
    recipe: Path, tmp_path: Path
) -> None:
    from sae_lens_meta.reproduce import stages

    run = run_of(recipe, tmp_path)
    stages.train(run)
    figures = stages.equal_l2(run)
    for seed in (1, 2):
        found = figures[f"solo_equal_l2_{seed}"]
        candidates = {}
        for n, path in stages._solo_checkpoints(run, seed).items():
            stages._export(path, tmp_path / "one", "cpu")
            sae = SAE.load_from_disk(tmp_path / "one")
            candidates[n] = stages._l2(run, sae)
        assert len(candidates) == 4
        distance = {n: abs(l2 - found["joint_l2"]) for n, l2 in candidates.items()}
        assert found["n_tokens"] == min(distance, key=lambda n: distance[n])
        exported = SAE.load_from_disk(tmp_path / "saes" / f"solo_equal_l2_{seed}")
        assert stages._l2(run, exported) == candidates[found["n_tokens"]]


def test_matrices_are_halved_on_disk_and_thresholds_are_not(
    recipe: Path, tmp_path: Path
) -> None:
    run = run_of(recipe, tmp_path, ["joint_1"])
    train(run, STEPS * BATCH, tmp_path)
    path = tmp_path / "saes" / "joint_1"
    before = SAE.load_from_disk(path).state_dict()
    store_matrices(path, "bfloat16")
    stored = load_file(path / "sae_weights.safetensors")
    loaded = SAE.load_from_disk(path).state_dict()
    for name, tensor in stored.items():
        halved = name in ("W_enc", "W_dec")
        assert tensor.dtype == (torch.bfloat16 if halved else torch.float32)
        assert loaded[name].dtype == torch.float32
        wanted = before[name].bfloat16().float() if halved else before[name]
        assert torch.equal(loaded[name], wanted)


def test_what_cannot_be_run_is_refused_before_it_starts(
    recipe: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(quiet=True)

    def refused(match: str, path: Path = recipe, **settings: Any) -> None:
        with pytest.raises(ValueError, match=match):
            reproduce(
                str(path), ReproduceConfig(output=tmp_path / "r", **settings), console
            )

    refused("no stage 'continue'. It has: cache, train, equal_l2", stage=["continue"])
    refused("compare builds on cache, which is not done", stage=["compare"])
    refused("has no rehearsal", rehearse=True)
    monkeypatch.setattr(needs, "free_memory_gb", lambda _: 1.0)
    monkeypatch.setattr(
        "sae_lens_meta.reproduce.reproduce.free_memory_gb", lambda _: 1.0
    )
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    rehearsal = {"architecture": {}, "batch": 1}
    no_model = plain_recipe(tmp_path / "no model", rehearsal=rehearsal)
    with pytest.raises(ValueError, match="no model.* cannot be had.* --rehearse runs"):
        reproduce(
            str(written(nowhere, no_model)),
            ReproduceConfig(output=nowhere / "r"),
            console,
        )
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="takes .* GB of memory; 1.0 GB are free"):
        reproduce(str(recipe), ReproduceConfig(output=other), console)
    monkeypatch.undo()
    usage = shutil.disk_usage(tmp_path)._replace(free=10**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="GB of disk are needed under"):
        reproduce(str(recipe), ReproduceConfig(output=other), console)
    monkeypatch.undo()
    changed = written(other, plain_recipe(model, seeds=[1, 3]))
    refused(r"holds a run with seeds \[1, 2\]; the recipe now says", changed)


def test_saes_are_trained_together_as_far_as_memory_holds_them() -> None:
    recipe = load_recipe("metasae-gemma2-9b-l23")
    one = needs.sae_gb(recipe)
    # two matrices of each SAE: weights, gradients and two moments in float32
    assert one == pytest.approx(16 * 2 * 3584 * (65_536 + 5_000) / 1e9)
    names = list(recipe.saes())
    assert needs.in_groups(recipe, 100.0, 20.0) == [names]
    assert needs.in_groups(recipe, 20 + 2.5 * one, 20.0) == [
        names[:2],
        names[2:4],
        names[4:],
    ]
    assert needs.in_groups(recipe, 20 + 1.5 * one, 20.0) == [[name] for name in names]
    with pytest.raises(ValueError, match="takes 28.1 GB of memory; 24.0 GB are free"):
        needs.in_groups(recipe, 24.0, 20.0)


def test_a_cache_keeps_the_held_out_documents_out(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SHARD_TOKENS", 1024)
    run = run_of(recipe, tmp_path)
    texts = [run.training_text(), run.held_out(0), run.held_out(20)]
    documents = [{row["text"] for row in text} for text in texts]
    assert [len(found) for found in documents[1:]] == [20, 15]
    assert not documents[0] & documents[1] and not documents[0] & documents[2]
    assert not documents[1] & documents[2]
