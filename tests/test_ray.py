"""A recipe on a cluster of two machines, some of which die, comes to what one process comes to."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_meta.destination import held
from sae_lens_meta.reproduce.executor import Piece
from sae_lens_meta.reproduce.recipe import load_recipe
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.underway import DONE, FAILED, standings
from tests.recipes import SHARD, all_weights, run

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_shards")]

STAGES = ["cache", "train", "equal_l2", "calibrate", "compare"]
# pieces whose process dies once it has come so far, and that whose machine leaves
DIES_AT = {"cache_1_of_4": SHARD, "train_joint_1": 2000, "count_2_of_4": 1}
LEAVES = "train_solo_2"
MARKS = "SAE_LENS_META_TEST_MARKS"


def set_up_worker() -> None:
    """What a worker's process does before anything else: small shards, and some deaths."""
    from sae_lens_meta import underway
    from sae_lens_meta.activations import cache
    from sae_lens_meta.reproduce import run as run_module

    torch.set_num_threads(1)
    cache.SHARD_TOKENS = run_module.SHARD_TOKENS = SHARD
    marks = Path(os.environ[MARKS])
    advance = underway._Reporter.advance

    def or_die(reporter: Any, done: int, total: int, unit: str) -> None:
        advance(reporter, done, total, unit)
        piece = reporter.standing.piece
        mark = marks / piece
        if mark.exists() or done < DIES_AT.get(piece, 1):
            return
        if piece in DIES_AT:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if piece == LEAVES:
            mark.write_text(ray.get_runtime_context().get_node_id())
            time.sleep(120)  # the machine leaves meanwhile

    underway._Reporter.advance = or_die  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def cluster(marks: Path) -> Iterator[Any]:
    os.environ[MARKS] = str(marks)
    # Ray's own 15 leaves a worker nothing beside a busy process
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        made.add_node(num_cpus=2)
    hook = {"worker_process_setup_hook": set_up_worker}
    ray.init(address=made.address, runtime_env=hook, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()
    del os.environ[MARKS]


@pytest.fixture
def node_leaves(cluster: Any, marks: Path) -> Iterator[None]:
    """Takes the machine away on which the piece LEAVES runs."""

    def take_away() -> None:
        mark = marks / LEAVES
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        (gone,) = (n for n in cluster.worker_nodes if n.node_id == mark.read_text())
        cluster.remove_node(gone, allow_graceful=False)

    thread = threading.Thread(target=take_away, daemon=True)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()


def figures(folder: Path) -> dict[str, Any]:
    """comparison.json without when it was made, where, and what says so."""
    found = json.loads((folder / "comparison" / "comparison.json").read_text())
    for key in ("created", "fingerprint", "settings"):
        del found[key]
    for sae in found["saes"]:
        del sae["path"]
    return found


@pytest.mark.usefixtures("node_leaves")
def test_a_cluster_that_loses_processes_and_a_machine_gives_what_one_process_gives(
    cluster: Any, marks: Path, recipe: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    run(recipe, tmp_path / "one", stage=STAGES)
    run(recipe, tmp_path / "ray", stage=STAGES, ray=cluster.address)
    assert {mark.name for mark in marks.iterdir()} == {*DIES_AT, LEAVES}
    one, many = (all_weights(tmp_path / name) for name in ("one", "ray"))
    assert one.keys() == many.keys() and len(one) > 20
    for name, tensor in one.items():
        assert torch.equal(tensor, many[name]), name
    assert figures(tmp_path / "one") == figures(tmp_path / "ray")
    found = standings(tmp_path / "ray" / "pieces")
    assert {standing.state for standing in found} == {DONE}
    assert len({standing.pid for standing in found}) > 2
    with held(tmp_path / "ray"), pytest.raises(ValueError, match="by another run"):
        run(recipe, tmp_path / "ray", ray=cluster.address)  # a second driver


def fails(_: Run, argument: str) -> str:
    if argument == "full":
        raise OSError(28, "No space left on device")
    return argument


@pytest.fixture
def on_ray(cluster: Any) -> Callable[[str], Any]:
    from sae_lens_meta.reproduce.on_ray import OnRay

    return lambda device: OnRay(cluster.address, device)


def test_what_fails_is_named_and_the_others_end(
    on_ray: Callable[[str], Any], recipe: Path, tmp_path: Path
) -> None:
    of = Run(load_recipe(str(recipe)), tmp_path / "run", "cpu")
    pieces = [Piece(name, fails, name) for name in ("full", "a", "b")]
    of.executor = on_ray("cpu")
    with pytest.raises(OSError, match="No space left on device"):
        of.each(pieces)
    states = {s.piece: s.state for s in standings(of.folder / "pieces")}
    assert states == {"full": FAILED, "a": DONE, "b": DONE}
    assert of.each(pieces[1:]) == ["a", "b"]
    with pytest.raises(ValueError, match="2 of 3 pieces failed:\n  full: .*\n  too: "):
        of.each([*pieces[:2], Piece("too", fails, "full")])
    with pytest.raises(ValueError, match="takes 99999.0 GB .* no machine .* has more"):
        of.each([Piece("a", fails, "a", memory_gb=99999)])
    with pytest.raises(ValueError, match="has no GPU"):
        on_ray("cuda")
