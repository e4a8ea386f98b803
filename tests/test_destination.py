"""Where a run writes to is opened before its work, and held by one run."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from filelock import FileLock

import sae_lens_meta.cli as cli
from sae_lens_meta import MetaTrainingSAE, destination
from sae_lens_meta.destination import check_new, check_writable, held
from tests.helpers import meta_config

TRAIN = "train --d_in 16 --d_sae 64 --k 4 --meta_k 2"
ROOT = Path(__file__).parent.parent
HOLD = """
import sys, time
from pathlib import Path
from sae_lens_meta.destination import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_one_process_holds_a_folder_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="folder is being written by another run"):
            held(folder).__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    for _ in range(2):  # neither a killed run nor one that ended leaves a lock behind
        with held(folder):
            (folder / "file").write_text("x")


def test_what_holds_a_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with held(tmp_path):
        assert list(tmp_path.iterdir()) != []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), held(tmp_path):
        (tmp_path / "file").touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_held_by_one_though_locks_come_and_go(tmp_path: Path) -> None:
    inside: list[int] = []

    def run(_: int) -> int:
        try:
            with held(tmp_path):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()
            return 0
        except ValueError:
            return 1

    with ThreadPoolExecutor(8) as pool:
        n_refused = sum(pool.map(run, range(2000)))
    assert n_refused < 2000


def test_a_lock_that_was_taken_away_under_us_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the run before unlinks it between our opening the file and locking it."""
    taken: list[int] = []

    class Unlinked(FileLock):
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            proxy = super().acquire(*args, **kwargs)
            if not taken:
                Path(self.lock_file).unlink()
            taken.append(1)
            return proxy

    monkeypatch.setattr(destination, "FileLock", Unlinked)
    with held(tmp_path), pytest.raises(ValueError, match="by another run"):
        held(tmp_path).__enter__()
    assert len(taken) == 2


def test_a_folder_is_proven_writable_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    check_writable(tmp_path / "kept" / "c")
    assert list((tmp_path / "kept").iterdir()) == []
    (tmp_path / "file").touch()
    for below in ("file", "file/out", "file/out/deeper", "kept/" + "x" * 300):
        with pytest.raises(OSError, match=f"Nothing can be written to .*{below[:20]}"):
            check_writable(tmp_path / below)
    assert (tmp_path / "file").is_file()


def test_no_run_takes_away_the_folder_that_another_begins_in(tmp_path: Path) -> None:
    n_runs = 8
    for turn in range(100):
        together = Barrier(n_runs)

        def begin(i: int, shared: Path, together: Barrier) -> None:
            together.wait()
            with held(shared / "pieces" / str(i)):
                (shared / "pieces" / str(i) / "file").touch()

        shared = tmp_path / str(turn)
        with ThreadPoolExecutor(n_runs) as pool:
            runs = [pool.submit(begin, i, shared, together) for i in range(n_runs)]
        for run in runs:
            run.result()
        assert len(list(shared.glob("pieces/*/file"))) == n_runs


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(ZeroDivisionError), held(folder):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), held(folder):
        (folder / "file").touch()
        raise ZeroDivisionError
    assert (folder / "file").is_file()
    with pytest.raises(ZeroDivisionError), held(folder):
        raise ZeroDivisionError
    assert (folder / "file").is_file()
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), held(tmp_path / "there"):
        raise ZeroDivisionError
    assert (tmp_path / "there").is_dir()


def test_a_file_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    check_new(path, overwrite=False)
    path.touch()
    with pytest.raises(ValueError, match="figures.json exists.*--overwrite"):
        check_new(path, overwrite=False)
    check_new(path, overwrite=True)
    with pytest.raises(ValueError, match="is a folder"):
        check_new(tmp_path, overwrite=True)
    check_new(tmp_path / "page.HTML", False, ".html")
    with pytest.raises(
        ValueError, match=r"does not end in .html.*--output .*page.html"
    ):
        check_new(tmp_path / "page", False, ".html")


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    path = tmp_path / "sae"
    made: Any = MetaTrainingSAE(meta_config())
    path.mkdir()
    made.save_inference_model(path)
    return path


@pytest.fixture
def stopped(tmp_path: Path, sae: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command that is given a destination says, which must not begin its work."""

    def work(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the work has begun")

    for module, name in [
        ("cli.demo", "load_text"),
        ("cli.train", "check_dataset"),
        ("cli.evaluate", "load_source"),
        ("comparison.run", "load_source"),
        ("autointerp.run", "load_source"),
        ("publishing.publish", "make_package"),
        ("reproduce.reproduce", "planned"),
    ]:
        # the package's own `autointerp` is the function
        monkeypatch.setattr(import_module(f"sae_lens_meta.{module}"), name, work)
    monkeypatch.chdir(tmp_path)
    solo = tmp_path / "solo"
    MetaTrainingSAE(
        meta_config(decomposability_coefficient=0, init_seed=1)
    ).save_inference_model(solo)
    commands = {
        "demo": "demo --output OUT",
        "evaluate": f"evaluate {sae} --output OUT/evaluation.json",
        "compare": f"compare --joint {sae} --solo {solo} --output OUT",
        "autointerp": f"autointerp --sae a={sae} --judge_url http://127.0.0.1:1 "
        "--judge_model x --output OUT",
        "publish": f"publish {sae} --repo a/b --output OUT",
        "reproduce": "reproduce metasae-smollm2-135m-instruct-l11 --output OUT",
        "train": f"{TRAIN} --output_path OUT",
        "train_checkpoints": f"{TRAIN} --checkpoint_path OUT",
    }

    def run(command: str, output: Path) -> str:
        with pytest.raises(SystemExit) as exit:
            cli.main(commands[command].replace("OUT", str(output)).split())
        return str(exit.value)

    return run


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "evaluate",
        "compare",
        "autointerp",
        "publish",
        "reproduce",
        "train",
        "train_checkpoints",
    ],
)
def test_every_command_opens_its_destination_before_its_work(
    stopped: Any, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").touch()
    printed = stopped(command, tmp_path / "file" / "out")
    assert printed.startswith("sae-lens-meta: Nothing can be written to ")
    assert "file/out" in printed
    assert "\n" not in printed


@pytest.mark.parametrize(
    "command", ["demo", "compare", "autointerp", "reproduce", "train"]
)  # of `evaluate` and `calibrate`, below
def test_of_two_runs_at_once_the_second_is_refused_at_its_start(
    stopped: Any, tmp_path: Path, command: str
) -> None:
    with held(tmp_path / "out"):
        printed = stopped(command, tmp_path / "out")
    assert "is being written by another run" in printed


def test_of_two_that_write_to_one_sae_the_second_is_refused_at_its_start(
    stopped: Any,  # noqa: ARG001
    sae: Path,
) -> None:
    with (
        held(sae),
        pytest.raises(SystemExit, match="is being written by another run"),
    ):
        cli.main(["calibrate", str(sae)])
    with (
        held(sae, ".evaluation.json.lock"),
        pytest.raises(SystemExit, match="is being written by another run"),
    ):
        cli.main(["evaluate", str(sae)])
    with held(sae), pytest.raises(AssertionError, match="the work has begun"):
        cli.main(["evaluate", str(sae)])  # which writes one file
    for path in sae.iterdir():
        assert "lock" not in path.name


def test_figures_and_weights_of_an_earlier_run_are_not_overwritten_unasked(
    stopped: Any, tmp_path: Path, sae: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("figures")
    (tmp_path / "out" / "sae_weights.safetensors").write_text("weights")
    for command in ("evaluate", "train"):
        assert "exists" in stopped(command, tmp_path / "out")
    (sae / "evaluation.json").write_text("figures")
    with pytest.raises(SystemExit, match=r"sae/evaluation.json exists"):
        cli.main(["evaluate", str(sae)])
    with pytest.raises(AssertionError, match="the work has begun"):
        cli.main(["evaluate", str(sae), "--overwrite"])
    assert (sae / "evaluation.json").read_text() == "figures"
