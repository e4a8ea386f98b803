"""How far each piece of a run is, in files that any shell can read while it goes on."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from sae_lens_meta.destination import write_whole

STANDING = "standing.json"
EVERY_SECONDS = 1.0
SMOOTHING = 0.2  # weight of the last second in a rate
RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass
class Standing:
    """
    How far a piece is.

    Attributes:
        piece: its name.
        host: the machine that it runs on.
        pid: of its process there.
        state: running, done or failed.
        began, updated: seconds since the epoch; what was killed is updated no more.
        done: how far it is.
        total: of how much; 0 where that is not known.
        unit: what is counted.
        rate: units a second of late, since what an earlier call did or is passed over takes no time.
        error: why it failed.
    """

    piece: str
    host: str
    pid: int
    state: str
    began: float
    updated: float
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0
    error: str = ""

    @property
    def seconds_left(self) -> float | None:
        """By its rate so far; None where nothing says."""
        if self.state != RUNNING or self.rate <= 0 or self.total <= 0:
            return None
        return (self.total - self.done) / self.rate


class _Reporter:
    def __init__(self, folder: Path, piece: str):
        now = time.time()
        self._path = folder / STANDING
        host, pid = socket.gethostname(), os.getpid()
        self.standing = Standing(piece, host, pid, RUNNING, now, now)
        self.write()

    def write(self) -> None:
        self.standing.updated = time.time()
        # a full disk is for the piece itself to find
        with suppress(OSError):
            write_whole(self._path, json.dumps(asdict(self.standing)))

    def advance(self, done: int, total: int, unit: str) -> None:
        standing, seconds = self.standing, time.time() - self.standing.updated
        if standing.unit == unit and seconds < EVERY_SECONDS and done < total:
            return
        if standing.unit == unit and done > standing.done:
            now = (done - standing.done) / seconds
            standing.rate += SMOOTHING * (now - standing.rate) if standing.rate else now
        else:  # another count begins
            standing.rate = 0.0
        standing.done, standing.total, standing.unit = done, total, unit
        self.write()


_reporter: ContextVar[_Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def underway(folder: Path, piece: str) -> Iterator[None]:
    """Keeps in `folder`, which exists, how far what happens inside is."""
    reporter = _Reporter(folder, piece)
    token = _reporter.set(reporter)
    try:
        yield
        reporter.standing.state = DONE
    except BaseException as error:
        reporter.standing.state = FAILED
        reporter.standing.error = str(error) or type(error).__name__
        raise
    finally:
        _reporter.reset(token)
        reporter.write()


def advance(done: int, total: int, unit: str) -> None:
    """Says how far the piece that is under way is, if one is; written once a second at most."""
    if reporter := _reporter.get():
        reporter.advance(done, total, unit)


def standings(folder: Path) -> list[Standing]:
    """All that is known of the pieces whose folders lie in `folder`, in the order they began."""
    found = [
        Standing(**json.loads(path.read_text()))
        for path in folder.glob(f"*/{STANDING}")
    ]
    return sorted(found, key=lambda standing: standing.began)
