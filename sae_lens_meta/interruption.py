"""SIGINT and SIGTERM end a training between two steps, so that it can be gone on from."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

from tqdm.auto import tqdm


class Interrupted(RuntimeError):
    """A signal ended a training; the message says what is kept of it."""


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
