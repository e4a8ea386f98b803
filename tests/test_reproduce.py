"""`sae-lens-meta reproduce`: every stage, what it leaves, and what it refuses."""

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sae_lens import SAE
from safetensors.torch import load_file

from sae_lens_meta.activations.cache import CachedActivations
from sae_lens_meta.activations.text import load_text
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.measures.reconstruction import ReconstructionMeter
from sae_lens_meta.report.attached import scores_of
from sae_lens_meta.reproduce import needs
from sae_lens_meta.reproduce.needs import Machine
from sae_lens_meta.reproduce.recipe import load_recipe
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import store_matrices
from sae_lens_meta.reproduce.training import newest_checkpoint, train_together
from sae_lens_meta.zoo import releases
from tests.hub_server import WRITER, HubServer
from tests.judges import Guesser, JudgeServer, judge_server
from tests.recipes import BATCH, STEPS, plain_recipe, written
from tests.tiny_llama import HOOK

NAMES_WITH_META = ("joint_1", "joint_1/meta", "solo_1")


@pytest.fixture
def one_control(model: Path, tmp_path: Path) -> Path:
    """A recipe whose penalty brings the joint L2 near an earlier checkpoint of one seed only."""
    plain = plain_recipe(model)
    plain["sae"]["decomposability_coefficient"] = 3.0
    return written(tmp_path, plain)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server(JudgeServer(answer=Guesser().answer)) as running:
        yield running


def run_of(path: Path, folder: Path, groups: list[list[str]] | None = None) -> Run:
    recipe = load_recipe(str(path))
    names = list(recipe.saes())
    pairs = [names[i : i + 2] for i in range(0, len(names), 2)]
    return Run(recipe, folder, "cpu", groups=groups or pairs)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        str(p.relative_to(folder)): t
        for p in sorted(folder.rglob("sae_weights.safetensors"))
        for t in [load_file(p)["W_dec"].clone()]  # safetensors before 0.5 maps the file
    }


def train(run: Run, n_tokens: int, output: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The exported weights, and the steps that were taken."""
    store = run.cached("train", 2 * STEPS * BATCH, None)
    cfg = run.runner_config(run.groups[0], n_tokens)
    checkpoints = output / "checkpoints"
    figures = train_together(cfg, store, checkpoints, output / "saes", {})
    return weights(output / "saes"), figures.n_steps


def test_a_training_that_was_killed_goes_on_bit_for_bit(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(recipe, tmp_path / "run")
    whole, n_steps = train(run, STEPS * BATCH, tmp_path / "whole")
    assert n_steps == STEPS
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
    resumed, n_steps = train(run, STEPS * BATCH, tmp_path / "killed")
    assert n_steps == STEPS - int(newest.name) // BATCH
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_warm_start_keeps_both_saes_and_both_optimizers(
    recipe: Path, tmp_path: Path
) -> None:
    """Going on from a training that has ended is the longer training, bit for bit."""
    run = run_of(recipe, tmp_path / "run")
    long, _ = train(run, 2 * STEPS * BATCH, tmp_path / "long")
    short, _ = train(run, STEPS * BATCH, tmp_path / "short")
    warm, n_steps = train(run, 2 * STEPS * BATCH, tmp_path / "short")
    assert n_steps == STEPS
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
        assert "solo_1/sae_weights.safetensors" in files
        whole = {f"{k}_1/trainer_state.pt" for k in ("joint", "solo")}
        assert (whole <= files) == (folder == newest)


@pytest.mark.slow
def test_every_stage_from_the_model_to_the_hub(
    one_control: Path,
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
    stages = reproduce(str(one_control), cfg, console)
    assert list(stages) == cfg.stage
    shown = console.export_text()
    assert "What tiny takes" in shown and "memory while training" in shown

    saes = {path.name: SAE.load_from_disk(path) for path in folder.glob("saes/*")}
    pairs = {f"{kind}_{seed}" for kind in ("joint", "solo") for seed in (1, 2)}
    assert set(saes) == pairs | {"solo_equal_l2_1"}
    for sae in saes.values():
        calibration = sae.cfg.metadata.calibration
        assert calibration["n_tokens"] == 2048
        assert sae.cfg.metadata.held_out == {"documents": 35, "text_seed": 42}
    for seed in (1, 2):
        found = stages["equal_l2"][f"solo_equal_l2_{seed}"]
        checkpoints = folder / "checkpoints" / str(seed - 1)
        steps = {int(p.name.split("_")[-1]) for p in checkpoints.iterdir()}
        assert found["n_tokens"] in steps
    comparison = Comparison.load(folder / "comparison" / "comparison.json")
    roles = [sae.group for sae in comparison.saes]
    assert [roles.count(r) for r in ("joint", "solo", "solo_equal_l2")] == [2, 2, 1]
    # the other solo SAE is at equal L2 itself, and no second piece of evidence
    assert "there is no solo_equal_l2_2 beside it" in comparison.warnings[0]
    assert stages["compare"]["warnings"] == comparison.warnings
    assert scores_of(comparison) is not None
    assert (folder / "comparison" / "report.html").is_file()

    # what is done is not done again, and a later call goes on
    before = len(server.requests)
    cfg.stage = []
    stages = reproduce(str(one_control), cfg, console)
    assert len(server.requests) == before
    assert stages["publish"]["uploaded"] is True
    assert "tests/tiny" in hub.repos
    assert releases.load_zoo().releases[-1].name == "tiny"
    state = json.loads((folder / "run.json").read_text())
    assert set(state["stages"]) == set(stages)
    assert all(stage["seconds"] >= 0 for stage in state["stages"].values())


@pytest.mark.parametrize("coefficient", [1e-6, 100.0])
def test_the_solo_at_equal_l2_is_the_checkpoint_nearest_to_the_joint_sae(
    model: Path, tmp_path: Path, coefficient: float
) -> None:
    from sae_lens_meta.reproduce import stages

    plain = plain_recipe(model)
    plain["sae"]["decomposability_coefficient"] = coefficient
    run = run_of(written(tmp_path, plain), tmp_path)
    stages.train(run)
    figures = stages.equal_l2(run)

    def l2(path: Path) -> float:
        meter = ReconstructionMeter(SAE.load_from_disk(path))
        for batch in run.selection():
            meter.update(batch)
        return meter.result().normalized_l2

    for seed in (1, 2):
        found = figures[f"solo_equal_l2_{seed}"]
        assert found["joint_l2"] == l2(tmp_path / "saes" / f"joint_{seed}")
        candidates = {}
        for n, path in stages.checkpoints_of(run, f"solo_{seed}").items():
            stages.export(path, tmp_path / "one", "cpu")
            candidates[n] = l2(tmp_path / "one")
        assert len(candidates) == 4
        distance = {n: abs(l2 - found["joint_l2"]) for n, l2 in candidates.items()}
        assert found["n_tokens"] == min(distance, key=lambda n: distance[n])
        assert found["l2"] == candidates[found["n_tokens"]]
        exported = tmp_path / "saes" / f"solo_equal_l2_{seed}"
        if coefficient > 1:
            assert found["n_tokens"] < max(candidates)
            assert l2(exported) == found["l2"]
        else:
            assert found["n_tokens"] == max(candidates), "the solo SAE itself"
            assert not exported.exists()
    # the joint SAE that was calibrated since is not what the checkpoints are held against
    stages.calibrate_all(run)
    assert stages.equal_l2(run) == figures


def test_matrices_are_halved_on_disk_and_thresholds_are_not(
    recipe: Path, tmp_path: Path
) -> None:
    run = run_of(recipe, tmp_path, [["joint_1"]])
    train(run, STEPS * BATCH, tmp_path)
    path = tmp_path / "saes" / "joint_1"
    # safetensors before 0.5 maps the file into memory, which is about to change
    before = copy.deepcopy(SAE.load_from_disk(path).state_dict())
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
    monkeypatch.setattr(
        "sae_lens_meta.reproduce.planning.free_memory_gb", lambda _: 1.0
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
    begun = ReproduceConfig(output=tmp_path / "r", stage=["cache"])
    reproduce(str(recipe), begun, console)
    changed = written(other, plain_recipe(model, seeds=[1, 3]))
    refused(r"holds a run with seeds \[1, 2\]; this one has \[1, 3\]", changed)
    refused("with dataset 'pydoc'.* Give --dataset pydoc, or another", dataset="x.txt")
    refused("--together takes 1 or more SAEs; got 0", together=0)


def machine(free_gb: float, device: str = "cpu") -> Machine:
    return Machine(
        device, free_gb, rate=1e12, reading=1e-5, lm_weights=10**9, lm_bytes=2
    )


def test_saes_are_trained_together_as_far_as_memory_holds_them() -> None:
    recipe = load_recipe("metasae-gemma2-9b-l23")
    weights = 4 * 2 * 3584 * (65_536 + 5_000) / 1e9
    one = needs.sae_gb(recipe)
    fixed = needs.fixed_gb(recipe, machine(0))
    assert one == pytest.approx(3 * weights)  # with two moments
    # the gradients of the SAE at work, and Adam's temporaries
    assert fixed == pytest.approx(2 + 2 * weights + needs.HEADROOM_GB)
    step = needs.gpu_step_bytes(recipe.joint, 4096) / 1e9
    assert needs.fixed_gb(recipe, machine(0, "cuda")) == pytest.approx(
        2 + step + needs.HEADROOM_GB
    )
    names = list(recipe.saes())
    pairs = [names[:2], names[2:4], names[4:]]
    # each seed reads in an order of its own, however much memory there is
    assert needs.in_groups(recipe, machine(1000.0)) == pairs
    assert needs.in_groups(recipe, machine(fixed + 2.5 * one)) == pairs
    assert needs.in_groups(recipe, machine(100.0), at_most=2) == pairs
    alone = [[name] for name in names]
    assert needs.in_groups(recipe, machine(fixed + 1.5 * one)) == alone
    with pytest.raises(ValueError, match="takes 14.1 GB of memory; 14.0 GB are free"):
        needs.in_groups(recipe, machine(14.0))


def test_what_a_recipe_takes_of_disk_holds_all_that_it_writes() -> None:
    recipe = load_recipe("metasae-gemma2-9b-l23")
    weights = 4 * 2 * 3584 * (65_536 + 5_000) / 1e9
    found = needs.estimate(recipe, [list(recipe.saes())], machine(100.0))
    whole, solo = 2 * 6 * 3 * weights, 3 * 2 * 10 * weights
    counts = (9 * 2 + 2 * 4) * 65_536**2 / 1e9
    activations = 2 * 5_000_000 * 3584 / 1e9
    assert found.disk_gb == pytest.approx(whole + solo + 9 * weights + activations)
    assert found.counts_gb == pytest.approx(counts + 18)
    assert found.comparing_gb == pytest.approx(18 + 9 * weights + 2)
    alone = needs.estimate(recipe, [[n] for n in recipe.saes()], machine(100.0))
    for passes, one in ((1, found), (6, alone)):
        n_tokens = passes * recipe.n_tokens + 5_000_000
        assert one.hours["reading activations"] == pytest.approx(n_tokens * 1e-5 / 3600)


def test_a_training_is_not_refused_for_the_disk_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    takes = needs.Needs(8.0, 40.0, 2.0, 1.0, {}, 1.0)
    needs.check_needs(takes, tmp_path, None)
    with pytest.raises(ValueError, match="48.0 GB of disk are needed under"):
        needs.check_needs(takes, tmp_path, 100.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"calibrate_tokens": 100}, "calibrate_tokens 100 is less than a batch of 128"),
        ({"runner": {"prepend_bos": False}}, "runner has no 'prepend_bos'"),
        ({"sae": {"normalize_activations": "expected_average_only_in"}}, "folds its"),
        (
            {"cache_activations": False, "runner": {"n_batches_in_buffer": 3}},
            "= 96 tokens is smaller than a batch of 128",
        ),
        (
            {"continue_tokens": 100, "runner": {"lr_decay_steps": 5}},
            "would stay at 0 while continue_tokens",
        ),
        ({"compare_tokens": 0}, "compare_tokens"),
    ],
)
def test_what_would_fail_late_is_refused_when_the_recipe_is_read(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    plain = plain_recipe(model)
    for key, value in changes.items():
        plain[key] = plain[key] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=message):
        load_recipe(str(written(tmp_path, plain)))


def test_a_text_that_is_too_short_is_said_before_training(
    model: Path, tmp_path: Path
) -> None:
    plain = plain_recipe(model)
    plain["runner"] |= {"training_tokens": 10_000_000}
    run = run_of(written(tmp_path, plain), tmp_path / "run")
    with pytest.raises(ValueError, match="text for 'train' ended after .* are needed"):
        run.cached("train", run.recipe.n_tokens, None)


def recorded_sums(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """What each training reads, by the sums of its batches."""
    read: list[list[float]] = []

    def recorded(cfg: Any, store: Any, *rest: Any) -> Any:
        loader, seen = store.get_multi_hook_data_loader, []

        def noted() -> Iterator[dict[str, torch.Tensor]]:
            for batch in loader():
                seen.append(float(batch[HOOK].double().sum()))
                yield batch

        store.get_multi_hook_data_loader = noted
        read.append(seen)
        return train_together(cfg, store, *rest)

    monkeypatch.setattr("sae_lens_meta.reproduce.stages.train_together", recorded)
    return read


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("together", [1, 2])
def test_each_seed_reads_in_an_order_of_its_own_and_records_it(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_cached: bool,
    together: int,
) -> None:
    read = recorded_sums(monkeypatch)
    path = written(tmp_path, plain_recipe(model, cache_activations=is_cached))
    stage = ["cache", "train"] if is_cached else ["train"]
    cfg = ReproduceConfig(output=tmp_path / "run", together=together, stage=stage)
    reproduce(str(path), cfg, Console(quiet=True))
    assert len(read) == 4 // together
    first, second = read[: len(read) // 2], read[len(read) // 2 :]
    # joint and solo of a seed the same batches, whether in one pass or in two
    assert first[0] == first[-1] and second[0] == second[-1]
    assert len(set(first[0])) == STEPS
    assert not set(first[0]) & set(second[0])
    for name, seed in (("joint_1", 1), ("solo_1", 1), ("joint_2", 2), ("solo_2", 2)):
        metadata = SAE.load_from_disk(tmp_path / "run" / "saes" / name).cfg.metadata
        assert metadata.data_seed == seed


def test_seeds_that_were_planned_for_one_pass_are_refused(
    recipe: Path, tmp_path: Path
) -> None:
    from sae_lens_meta.reproduce import stages

    run = run_of(recipe, tmp_path, [["joint_1", "solo_1", "joint_2", "solo_2"]])
    with pytest.raises(ValueError, match="earlier version .* Delete .*checkpoints and"):
        stages.train(run)
    assert not (tmp_path / "checkpoints" / "0").exists()


@pytest.mark.slow
def test_activations_that_stream_train_in_turn_and_go_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the big recipes do: nothing cached, one SAE after the other, a continuation."""
    plain = plain_recipe(model, cache_activations=False, seeds=[1])
    plain |= {"continue_tokens": STEPS * BATCH}
    path = written(tmp_path, plain)
    console = Console(quiet=True)
    cfg = ReproduceConfig(output=tmp_path / "run", together=1, stage=["train"])
    read = recorded_sums(monkeypatch)
    figures = reproduce(str(path), cfg, console)["train"]
    # both read the same activations in the same order, though one after the other
    assert read[0] == read[1] and len(set(read[0])) == STEPS
    assert [figures[name]["n_steps"] for name in ("joint_1", "solo_1")] == [STEPS] * 2
    first = weights(tmp_path / "run" / "saes")
    assert set(first) == {f"{n}/sae_weights.safetensors" for n in NAMES_WITH_META}
    with pytest.raises(
        ValueError, match="train is done, and a training that has ended"
    ):
        reproduce(str(path), cfg, console)
    cfg.stage = ["continue", "equal_l2", "calibrate"]
    stages = reproduce(str(path), cfg, console)
    figures = stages["continue"]
    assert [figures[name]["n_steps"] for name in ("joint_1", "solo_1")] == [STEPS] * 2
    assert figures["joint_1"]["moved"]["joint_1"] > 0.01
    second = weights(tmp_path / "run" / "saes")
    assert all(not torch.equal(first[name], second[name]) for name in first)
    assert stages["calibrate"]["joint_1"]["n_tokens"] == 2048
    assert read[2] == read[3] and not set(read[2]) & set(read[0])


@pytest.mark.slow
def test_a_training_that_ended_is_left_alone_when_the_next_was_killed(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []

    def killed(cfg: Any, *rest: Any) -> Any:
        begun.append(list(cfg.saes))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return train_together(cfg, *rest)

    monkeypatch.setattr("sae_lens_meta.reproduce.stages.train_together", killed)
    folder = tmp_path / "run"
    cfg = ReproduceConfig(output=folder, together=2, stage=["cache", "train"])
    console = Console(quiet=True)
    with pytest.raises(KeyboardInterrupt):
        reproduce(str(recipe), cfg, console)
    written = {p: p.stat().st_mtime_ns for p in (folder / "checkpoints/0").rglob("*")}
    cfg.stage = ["train"]
    figures = reproduce(str(recipe), cfg, console)["train"]
    first, second = (", ".join(group) for group in (begun[0], begun[1]))
    assert begun[2:] == [begun[1]] and first != second
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert [figures[name]["n_steps"] for name in (first, second)] == [STEPS] * 2


def test_a_stage_that_was_killed_and_those_after_it_do_not_count_as_done(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens_meta.reproduce.stages import STAGES

    ran: list[str] = []
    for stage in STAGES:
        figures = {"uploaded": False} if stage == "publish" else {}
        monkeypatch.setitem(
            STAGES, stage, lambda _, s=stage, f=figures: ran.append(s) or f
        )
    cfg = ReproduceConfig(output=tmp_path / "run")
    console = Console(record=True, width=200)
    stages = ["cache", "train", "equal_l2", "calibrate", "compare", "publish"]
    assert list(reproduce(str(recipe), cfg, console)) == stages == ran
    assert "autointerp is left out: it takes --judge_url" in console.export_text()

    def killed(_: Run) -> dict[str, Any]:
        raise KeyboardInterrupt

    works = STAGES["calibrate"]
    monkeypatch.setitem(STAGES, "calibrate", killed)
    cfg.stage = ["calibrate"]
    with pytest.raises(KeyboardInterrupt):
        reproduce(str(recipe), cfg, console)
    monkeypatch.setitem(STAGES, "calibrate", works)
    ran.clear()
    cfg.stage = []
    reproduce(str(recipe), cfg, console)
    assert ran == ["calibrate", "compare", "publish"]
    # a judge who comes later, and where to publish, take up what was left out
    for changes, again in (
        ({"judge_url": "http://judge", "judge_model": "x"}, ["autointerp", "publish"]),
        ({"repo": "tests/tiny"}, ["publish"]),
    ):
        ran.clear()
        reproduce(str(recipe), replace(cfg, **changes), console)
        assert ran == again
    # what is built on a stage that was passed over is made again
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    del state["stages"]["train"]
    untrained = json.dumps(state)
    (tmp_path / "run" / "run.json").write_text(untrained)
    ran.clear()
    reproduce(str(recipe), cfg, console)
    assert ran == ["train", "equal_l2", "calibrate", "compare", "publish"]

    # the memory that training takes matters to no other stage
    (tmp_path / "run" / "checkpoints" / "0" / "1").mkdir(parents=True)
    monkeypatch.setattr("sae_lens_meta.reproduce.needs.sae_gb", lambda *_: 1e3)
    cfg.stage = ["compare"]
    ran.clear()
    reproduce(str(recipe), cfg, console)
    assert ran == ["compare"]
    cfg.stage = []
    (tmp_path / "run" / "run.json").write_text(untrained)
    with pytest.raises(ValueError, match="Training one SAE.* takes 100"):
        reproduce(str(recipe), cfg, console)
    cfg.together = 1
    with pytest.raises(ValueError, match="begun with 2 SAEs.* Leave out --together"):
        reproduce(str(recipe), cfg, console)


def test_training_selection_and_comparison_read_different_documents(
    recipe: Path, tmp_path: Path
) -> None:
    run = run_of(recipe, tmp_path)
    texts = [run.training_text(), run.held_out(0), run.held_out(20)]
    documents = [{row["text"] for row in text} for text in texts]
    assert [len(found) for found in documents[1:]] == [20, 15]
    assert not documents[0] & documents[1] and not documents[0] & documents[2]
    assert not documents[1] & documents[2]
    # and what is cached is of these documents
    for name, first, text in (("train", None, texts[0]), ("select", 20, texts[2])):
        cached = run.cached(name, 2048, first)
        found = torch.cat([load_file(path)["activations"] for path in cached.shards])
        store = run.store(text)
        wanted = store.get_activations(store.get_batch_tokens()).flatten(0, 1)
        assert torch.equal(found[: len(wanted)], wanted.bfloat16())


def test_a_run_does_not_go_on_over_another_text(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    documents = load_text("pydoc", 1)[0]["text"]  # type: ignore[index]
    rows = [json.dumps({"text": document}) for document in documents]
    text.write_text("\n".join(rows))
    path = written(tmp_path, plain_recipe(model, dataset=str(text)))
    cfg = ReproduceConfig(output=tmp_path / "run", stage=["cache"])
    console = Console(quiet=True)
    reproduce(str(path), cfg, console)
    with text.open("a") as file:
        file.write("\n" + json.dumps({"text": "one more"}))
    with pytest.raises(ValueError, match="holds other documents than when the run in"):
        reproduce(str(path), replace(cfg, stage=["train"]), console)
