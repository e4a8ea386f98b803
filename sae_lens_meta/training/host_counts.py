"""Buffers that decide what is done next, kept where a look at them costs nothing."""

from collections.abc import Callable
from typing import Any

from torch import nn


class HostCounts(nn.Module):
    """A module whose buffers in `host_counts` stay on the CPU wherever it moves."""

    host_counts: tuple[str, ...] = ()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name in self.host_counts:
            if name in self._buffers:  # it has moved before they were made
                setattr(self, name, self.get_buffer(name).cpu())
        return self
