"""CUDA graphs: capture of the kernels of a function, and replay with a single launch.

A training step of a small model consists of thousands of kernels that take a few microseconds
each, which is less time than Python needs to launch them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before a capture, in which libraries select kernels and allocate memory

T = TypeVar("T")
Inputs = tuple[Tensor | None, ...]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    outputs: Any


@contextmanager
def _fastest_kernels() -> Iterator[None]:
    """Let cuDNN benchmark its kernels for each shape during the warm-up."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Graphs:
    """Captured functions, one graph per key, in a shared memory pool.

    A captured function must not synchronise with the host, and everything that changes between
    calls must be an input. The next call with any key overwrites the outputs.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self,
        key: Hashable,
        function: Callable[..., T],
        *inputs: Tensor | None,
    ) -> T:
        """Compute the outputs of a function, which is captured at the first call of a key.

        Args:
            key: everything that is fixed in the graph: shapes, and values on which the function
                branches.
            function: the function; takes the inputs and returns tensors, possibly in containers.
            *inputs: tensors or None, copied into the inputs of the graph.
        """
        if key not in self._graphs:
            self._graphs[key] = self._capture(function, inputs)
        graph, static, outputs = self._graphs[key]
        for own, new in zip(static, inputs, strict=True):
            if own is not None and new is not None:
                own.copy_(new)
        graph.replay()
        return outputs

    @_fastest_kernels()
    def _capture(self, function: Callable[..., T], inputs: Inputs) -> _Graph:
        own = tuple(None if a is None else a.clone() for a in inputs)
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*own)
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = function(*own)
        return _Graph(graph, own, outputs)
