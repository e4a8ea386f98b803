"""
Work that a GPU is told once and does again and again: CUDA graphs of a function of tensors.

A step of a small meta SAE is hundreds of short kernels, and handing each over takes the host
longer than the GPU needs for it. A graph hands all of them over at once. It runs them at the
addresses that they were recorded at, with the numbers that the host knew then, so what changes from
call to call has to come in as a tensor.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import nn

# Values of a matrix from which on the GPU is busy with it longer than the host with telling it to;
# a graph of it would also keep hold of several copies of it.
LARGEST = 1 << 26

Function = Callable[..., tuple[torch.Tensor, ...]]


class Recorded(NamedTuple):
    """A graph, and the tensors that it reads its inputs from and leaves its outputs in."""

    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


class Graphs:
    """
    Calls functions of a module; on a GPU, from the second call with inputs of the same shapes on, by a graph.

    Args:
        carried: attributes of the module, tensors, that the functions read and replace. Nothing
            else that is on the module may change in a call, but by an optimizer in place.
    """

    def __init__(self, carried: tuple[str, ...]):
        self.carried = carried
        self._recorded: dict[Hashable, Recorded | None] = {}
        self._weights: Hashable = ()

    def __reduce__(self) -> Any:
        return Graphs, (self.carried,)  # a copy of the module has weights elsewhere

    @property
    def number(self) -> int:
        """How many graphs were recorded."""
        return sum(recorded is not None for recorded in self._recorded.values())

    def call(
        self,
        module: nn.Module,
        function: Function,
        *inputs: torch.Tensor,
        settings: Hashable = (),
    ) -> tuple[torch.Tensor, ...]:
        """
        What `function` returns for `inputs`.

        Args:
            module: whose parameters the function reads.
            function: a method of it, without a look at the device.
            inputs: the first is the largest.
            settings: whatever else decides what the function does.
        """
        if not can_be_recorded(inputs[0]) or is_hooked(module):
            return function(*inputs)
        weights = tuple((p.data_ptr(), p.requires_grad) for p in module.parameters())
        if weights != self._weights:
            self._recorded.clear()
            self._weights = weights
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        key = (function.__name__, settings, shapes)
        if key not in self._recorded:
            # the first call makes the handles and workspaces of libraries
            self._recorded[key] = None
            return function(*inputs)
        given = [*inputs, *self._state(module, inputs[0])]
        recorded = self._recorded[key] or self._record(module, function, given)
        self._recorded[key] = recorded
        for own, tensor in zip(recorded.inputs, given, strict=True):
            own.copy_(tensor)
        recorded.graph.replay()
        # the next replay overwrites its outputs
        outputs = [output.clone() for output in recorded.outputs]
        n_returned = len(outputs) - len(self.carried)
        self._carry(module, outputs[n_returned:])
        return tuple(outputs[:n_returned])

    def _record(
        self, module: nn.Module, function: Function, given: list[torch.Tensor]
    ) -> Recorded:
        own = [tensor.detach().clone() for tensor in given]
        before = given[len(given) - len(self.carried) :]
        self._carry(module, own[len(given) - len(self.carried) :])
        graph = torch.cuda.CUDAGraph()
        others = [r for r in self._recorded.values() if r is not None]
        # graphs that are never replayed at the same time take the same memory for what they drop
        pool = others[0].graph.pool() if others else None
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            returned = function(*own[: len(given) - len(self.carried)])
            outputs = [*returned, *self._state(module, given[0])]
        self._carry(module, before)
        return Recorded(graph, own, outputs)

    def _state(self, module: nn.Module, like: torch.Tensor) -> list[torch.Tensor]:
        """The carried attributes, a number as a tensor beside `like`."""
        values = [getattr(module, name) for name in self.carried]
        return [
            value
            if isinstance(value, torch.Tensor)
            else torch.full((), value, device=like.device)
            for value in values
        ]

    def _carry(self, module: nn.Module, tensors: list[torch.Tensor]) -> None:
        for name, tensor in zip(self.carried, tensors, strict=True):
            setattr(module, name, tensor)


def is_hooked(module: nn.Module) -> bool:
    """Whether something of the user's is called within, which a graph would call once."""
    return any(part._forward_hooks or part._backward_hooks for part in module.modules())


def can_be_recorded(matrix: torch.Tensor) -> bool:
    """Whether a function of this matrix is one that a graph serves."""
    return (
        matrix.is_cuda
        and matrix.numel() <= LARGEST
        # what is deterministic reads the device
        and not torch.are_deterministic_algorithms_enabled()
        and not torch.cuda.is_current_stream_capturing()
    )
