"""SIGINT and SIGTERM end a training between two steps, and everything else in order."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm.auto import tqdm


class Interrupted(RuntimeError):
    """A signal ended a training; the message says what is kept of it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which then ends a command as Ctrl-C does: what it holds is given back."""


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """Has SIGTERM raise `Terminated` inside, unless somebody else listens to it."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


class StopSignals:
    """
    While entered, notes the first SIGINT or SIGTERM; a second one acts at once, as it did before.

    Attributes:
        received: name of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Python lets no other thread handle signals
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self.__exit__()
        tqdm.write(
            f"{self.received}: a checkpoint is written after this step. Once more stops at once.",
            file=sys.stderr,
        )

    def check(self) -> None:
        """
        Raises:
            Interrupted: if a signal was received.
        """
        if self.received:
            raise Interrupted(self.received)
