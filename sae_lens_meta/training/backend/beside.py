"""Work that a GPU does beside what it is told next."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sae_lens_meta.training.backend.graphs import can_be_recorded


class Beside:
    """
    A stream for work that what follows does not need at once.

    A GPU that waits for the host between short kernels does the work of a graph meanwhile. Where
    the matrices are too large for a graph it has no time to spare, and there is no such stream:
    memory that was used on one is not free for another.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None  # while there is work on it

    def __reduce__(self) -> Any:
        return Beside, ()  # of work under way a copy has none

    @contextmanager
    def work_on(self, matrix: torch.Tensor) -> Iterator[None]:
        """Sends what is done to `matrix` inside to the stream, after all that came before."""
        self._stream = None
        if not can_be_recorded(matrix):
            yield
            return
        self._stream = _stream_of(matrix.device)
        self._stream.wait_stream(torch.cuda.current_stream(matrix.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self, result: torch.Tensor) -> torch.Tensor:
        """`result` of the work, for which what follows waits."""
        if self._stream is not None:
            here = torch.cuda.current_stream(result.device)
            here.wait_stream(self._stream)
            result.record_stream(here)
        return result


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _stream_of(device: torch.device) -> torch.cuda.Stream:
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]
