"""CUDA graphs: a function's kernels as they were launched once, launched again in one go.

A step of a small model is thousands of kernels of a few microseconds each, which Python launches
more slowly than they run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before a capture: libraries choose their kernels and get their memory in them

T = TypeVar("T")
Given = tuple[Tensor | None, ...]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Given
    outputs: Any


@contextmanager
def _fastest_kernels() -> Iterator[None]:
    """Let cuDNN try its kernels for each shape in the warm-up, and capture the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Graphs:
    """Captured functions, one graph for each key, in one pool of memory.

    What is captured must not read anything back to the host, and must find all that changes from
    call to call in its inputs. Outputs are overwritten by the next call of any key.
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
        """What the function gives, captured at the first call of a key.

        Args:
            key: what is fixed in the graph: shapes, and all that the function decides by.
            function: of as many tensors (or None) as inputs are given; gives tensors, in whatever
                they are.
            *inputs: copied into those of the graph.
        """
        if key not in self._graphs:
            self._graphs[key] = self._capture(function, inputs)
        graph, given, outputs = self._graphs[key]
        for mine, new in zip(given, inputs, strict=True):
            if mine is not None and new is not None:
                mine.copy_(new)
        graph.replay()
        return outputs

    @_fastest_kernels()
    def _capture(self, function: Callable[..., T], inputs: Given) -> _Graph:
        own = tuple(None if a is None else a.clone() for a in inputs)
        main, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                function(*own)
        main.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = function(*own)
        return _Graph(graph, own, outputs)
