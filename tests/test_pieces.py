"""A recipe in pieces, each by a process of its own, comes to what one process comes to."""

import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sae_lens_meta.activations.part import WHOLE
from sae_lens_meta.destination import held
from sae_lens_meta.reproduce import run as run_module
from sae_lens_meta.reproduce.recipe import load_recipe
from sae_lens_meta.reproduce.stages import fill_piece
from sae_lens_meta.reproduce.training import newest_checkpoint
from sae_lens_meta.reproduce.watching import WatchConfig, table, watch
from sae_lens_meta.underway import FAILED, Standing, standings
from tests.recipes import all_weights, plain_recipe, run, written

pytestmark = pytest.mark.usefixtures("small_shards")
SAES = ("joint_1", "solo_1", "joint_2", "solo_2")


def test_pieces_give_the_weights_of_one_process(recipe: Path, tmp_path: Path) -> None:
    stages = ["cache", "train", "equal_l2", "calibrate"]
    run(recipe, tmp_path / "one", stage=stages)
    for part in ("2/3", "3/3", "1/3"):
        run(recipe, tmp_path / "pieces", stage=["cache"], part=part)
    for name in reversed(SAES):
        run(recipe, tmp_path / "pieces", only=name)
    run(recipe, tmp_path / "pieces", stage=stages)
    one, pieces = (all_weights(tmp_path / name) for name in ("one", "pieces"))
    assert one.keys() == pieces.keys() and len(one) > 20
    for name, tensor in one.items():
        assert torch.equal(tensor, pieces[name]), name


def test_a_piece_that_is_none_is_refused_before_anything_is_written(
    recipe: Path, tmp_path: Path
) -> None:
    for asked, message in (
        ({"only": "joint_9"}, "trains no SAE 'joint_9'. It trains joint_1, solo_1"),
        ({"only": "joint_1", "part": "1/2"}, "Give one"),
        ({"part": "1/2"}, "give --stage cache too"),
        ({"part": "3/2", "stage": ["cache"]}, "got '3/2'"),
        ({"only": "joint_1", "stage": ["compare"]}, "got compare"),
    ):
        with pytest.raises(ValueError, match=message):
            run(recipe, tmp_path / "run", **asked)
        assert not (tmp_path / "run").exists()


def test_what_a_piece_needs_and_who_else_is_at_it_is_said(
    recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="not complete. Run --stage cache first"):
        run(recipe, folder, only="joint_1")
    run(recipe, folder, stage=["cache"], part="1/1")
    with held(folder / "pieces" / "train_joint_2"):
        with pytest.raises(ValueError, match="is being written by another run"):
            run(recipe, folder, only="joint_2")
        run(recipe, folder, only="joint_1")  # of which another one is none the wiser
    with pytest.raises(ValueError, match="several SAEs in one pass: joint_1 and solo_1"):  # fmt: skip
        run(recipe, tmp_path / "pairs", stage=["cache"])
        run(recipe, tmp_path / "pairs", only="joint_1")


def test_a_training_that_has_not_ended_is_not_continued(
    model: Path, tmp_path: Path
) -> None:
    recipe = written(tmp_path, plain_recipe(model, continue_tokens=2048))
    folder = tmp_path / "run"
    run(recipe, folder, stage=["cache"], part="1/1")
    with pytest.raises(ValueError, match="joint_1 has not ended"):
        run(recipe, folder, only="joint_1", stage=["continue"])
    run(recipe, folder, only="joint_1")
    found = run(recipe, folder, only="joint_1", stage=["continue"])
    assert 0 < found["continue"]["n_steps"] < 24


PIECE = """
import sys
from pathlib import Path
from rich.console import Console
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
recipe, folder, name = sys.argv[1:]
reproduce(recipe, ReproduceConfig(output=Path(folder), only=name), Console())
"""


# SIGTERM is what a preempted job is sent; it leaves a checkpoint of the step it was at
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 1)]
)
def test_pieces_run_at_once_and_a_stopped_one_goes_on(
    recipe: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run(recipe, tmp_path / "one", stage=["cache", "train"])
    folder = tmp_path / "pieces"
    run(recipe, folder, stage=["cache"], part="1/1")

    def start(name: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", PIECE, str(recipe), str(folder), name]
        return subprocess.Popen(argv)

    stopped = start("joint_1")
    while newest_checkpoint(folder / "checkpoints" / "0") is None:
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(number)
    assert stopped.wait() == code
    if number == signal.SIGTERM:
        (standing,) = (
            s for s in standings(folder / "pieces") if s.piece == "train_joint_1"
        )
        assert standing.state == FAILED and "Stopped by SIGTERM" in standing.error
    assert [p.wait() for p in [start("joint_1"), start("solo_1")]] == [0, 0]
    for name in ("joint_2", "solo_2"):
        run(recipe, folder, only=name)
    one, pieces = (all_weights(tmp_path / name) for name in ("one", "pieces"))
    assert one.keys() == pieces.keys()
    assert all(torch.equal(tensor, pieces[name]) for name, tensor in one.items())


def test_the_model_goes_to_its_own_device_and_the_saes_to_theirs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = run_module.load_model

    def noted(kind: str, name: str, device: str, kwargs: Any) -> Any:
        asked.append(device)
        return load(kind, name, "cpu", kwargs)

    monkeypatch.setattr(run_module, "load_model", noted)
    of = run_module.Run(load_recipe(str(recipe)), tmp_path, "cpu", llm_device="cuda:7")
    _ = of.model
    cfg = of.runner_config(["joint_1"], 1000)
    assert (asked, cfg.device, cfg.saes["joint_1"].device) == (["cuda:7"], "cpu", "cpu")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for a little more than one shard of activations, and no more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root alone")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_said_and_what_was_complete_is_gone_on_from(
    recipe: Path, tmp_path: Path, small_disk: Path
) -> None:
    run(recipe, tmp_path / "one", stage=["cache", "train"])
    folder = small_disk / "run"
    of = run_module.Run(load_recipe(str(recipe)), folder, "cpu")
    with pytest.raises(OSError, match="No space left|disk of .* is full"):
        of.each([fill_piece(WHOLE)])
    kept = list((folder / "activations" / "train").glob("*.safetensors"))
    assert len(kept) >= 1
    before = {path: path.stat().st_mtime_ns for path in kept}
    more = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(more, check=True)
    run(recipe, folder, stage=["cache", "train"])
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    one, gone_on = all_weights(tmp_path / "one"), all_weights(folder)
    assert all(torch.equal(tensor, gone_on[name]) for name, tensor in one.items())


def test_every_piece_is_seen_from_another_shell(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    console = Console(record=True, width=160, file=io.StringIO())
    with pytest.raises(FileNotFoundError, match="No piece of a run has begun"):
        watch(folder, WatchConfig(), console)
    run(recipe, folder, stage=["cache", "train"])
    watch(folder, WatchConfig(), console)  # which ends, since nothing runs
    shown = console.export_text()
    assert "4 done" in shown and "train_joint_1_solo_1" in shown
    assert "100% of 3,072 tokens trained on" in shown
    killed, failed = (
        Standing("a", "host", 7, state, 0, 100, 50, 200, "tokens", 10.0, error)
        for state, error in (("running", ""), ("failed", "[no] room"))
    )
    console.print(table([killed, failed], now=400))
    shown = console.export_text()
    assert "silent for 5 min 00 s" in shown and "failed: [no] room" in shown
    assert "25% of 200 tokens" in shown and "15 s" in shown
