"""Where the pieces of a run are worked on: here, one after another, or wherever Ray has room."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import SafetensorError

from sae_lens_meta.destination import held
from sae_lens_meta.interruption import Interrupted
from sae_lens_meta.underway import underway

if TYPE_CHECKING:
    from sae_lens_meta.reproduce.run import Run


@dataclass(frozen=True)
class Piece:
    """
    What one process works on, writing what no other piece writes.

    Attributes:
        name: of its folder in the run's `pieces/`, where its lock and its standing are.
        task: called with the run and `argument`; a function that can be pickled.
        argument: likewise.
        memory_gb: of the host, that it takes; 0 where that is not known yet.
    """

    name: str
    task: "Callable[[Run, Any], Any]"
    argument: Any
    memory_gb: float = 0.0

    def perform(self, run: "Run") -> Any:
        """
        Does the piece.

        Raises:
            ValueError: if another process is at it.
            OSError: if the disk is full.
        """
        folder = run.folder / "pieces" / self.name
        with held(folder), underway(folder, self.name):
            try:
                return self.task(run, self.argument)
            except SafetensorError as error:
                if "No space left" not in str(error):
                    raise
                raise OSError(
                    errno.ENOSPC,
                    f"The disk of {run.folder} is full. What was complete is kept: free some, and "
                    "make the same call again",
                ) from error


class Executor(Protocol):
    """Has pieces done."""

    n_parts: int
    """In how many parts to cut what can be cut into any number."""

    def attempt(
        self, run: "Run", pieces: Sequence[Piece], keep_going: bool
    ) -> list[Any]:
        """
        What the pieces come to, in their order; in the place of one that failed, its exception.

        Args:
            run: that they are of.
            pieces: to be done.
            keep_going: whether to begin more after one has failed.

        Raises:
            ValueError: if there is no room for a piece.
            Interrupted: if a signal stopped a training.
        """
        ...


class InThisProcess:
    """One piece after another."""

    n_parts = 1

    def attempt(
        self, run: "Run", pieces: Sequence[Piece], keep_going: bool
    ) -> list[Any]:
        found: list[Any] = []
        for piece in pieces:
            try:
                found.append(piece.perform(run))
            except Interrupted:  # which ends the run
                raise
            except Exception as error:
                found.append(error)
                if not keep_going:
                    break
        return found


class PiecesFailed(ValueError):
    """Some pieces failed, each named with its error; what the others have done is kept."""


def raise_failed(pieces: Sequence[Piece], found: Sequence[Any]) -> None:
    """
    Raises:
        Exception: the one of the piece that failed.
        PiecesFailed: if several did.
    """
    failed = [
        (piece.name, error)
        for piece, error in zip(pieces, found, strict=False)
        if isinstance(error, Exception)
    ]
    if len(failed) == 1:
        raise failed[0][1]
    if failed:
        said = "\n".join(f"  {name}: {error}" for name, error in failed)
        raise PiecesFailed(
            f"{len(failed)} of {len(pieces)} pieces failed:\n{said}\nThe same call goes on from "
            "what is done."
        )
