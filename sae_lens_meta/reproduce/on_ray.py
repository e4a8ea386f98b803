"""The pieces of a run as Ray tasks, on whichever machine has what they need free."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_meta.extras import extra
from sae_lens_meta.reproduce.executor import Piece
from sae_lens_meta.reproduce.run import Run

with extra("ray"):
    import ray
    from ray.exceptions import RayError, RayTaskError

# of a piece whose process or machine died; what a piece raises itself is not tried again
RETRIES = 5
SECONDS_TO_STOP = 120  # to write checkpoints in
GB = 1e9


class OnRay:
    """
    Pieces as Ray tasks, each with a GPU, or on a processor with one core.

    Every machine of the cluster sees the run's folder under the same path, and has this package.

    Args:
        address: of the cluster: `auto` or `ray://...`; `local` begins one on this machine.
        device: that pieces run on.

    Raises:
        MissingExtra: if Ray is not installed.
        ConnectionError: if there is no cluster at `address`.
        ValueError: if it has no GPU, where `device` is one.
    """

    def __init__(self, address: str, device: str):
        if not ray.is_initialized():
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.WARNING
            )
        self._n_gpus = int(torch.device(device).type == "cuda")
        resource = "GPU" if self._n_gpus else "CPU"
        self.n_parts = int(ray.cluster_resources().get(resource, 0))
        if self.n_parts == 0:
            raise ValueError(
                f"The cluster at {address!r} has no {resource}. Give another --ray or --device."
            )

    def attempt(self, run: Run, pieces: Sequence[Piece], keep_going: bool) -> list[Any]:
        """
        What the pieces come to, in their order; in the place of one that failed, its exception.

        All of them begin as soon as there is room, whatever becomes of others.

        Raises:
            ValueError: if no machine has the memory that a piece takes.
        """
        del keep_going
        self._check_room(pieces)
        found: dict[str, Any] = {}
        waiting = {self._submitted(run, piece): piece.name for piece in pieces}
        with (
            tqdm(total=len(pieces), desc="Pieces on Ray", unit="piece") as bar,
            _stopped_when_interrupted(waiting),
        ):
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                found[waiting.pop(ready)] = _outcome(ready)
                bar.update()
        return [found[piece.name] for piece in pieces]

    def _submitted(self, run: Run, piece: Piece) -> Any:
        task = ray.remote(_performed).options(
            name=piece.name,
            num_cpus=1,
            num_gpus=self._n_gpus,
            memory=int(piece.memory_gb * GB),
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        return task.remote(run, piece, str(Path.cwd()))

    def _check_room(self, pieces: Sequence[Piece]) -> None:
        needed = max(piece.memory_gb for piece in pieces)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        memory = max(node.get("memory", 0) for node in nodes) / GB
        if needed > memory:
            raise ValueError(
                f"A piece takes {needed:.1f} GB of memory, and no machine of the cluster has more "
                f"than {memory:.1f} GB for tasks. Add one that has."
            )


def _outcome(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        error.cause.__cause__ = error  # which has the trace of the other process
        return error.cause
    except RayError as error:
        return error


def _performed(run: Run, piece: Piece, folder: str) -> Any:
    os.chdir(folder)  # paths of the recipe are the caller's
    if run.device == "cpu":
        torch.set_num_threads(1)  # the core that it was given
    return piece.perform(run)


@contextmanager
def _stopped_when_interrupted(waiting: dict[Any, str]) -> Iterator[None]:
    """On Ctrl-C, lets every piece write its checkpoint first."""
    try:
        yield
    except KeyboardInterrupt:
        for ref in waiting:
            ray.cancel(ref)
        ray.wait(list(waiting), num_returns=len(waiting), timeout=SECONDS_TO_STOP)
        raise
