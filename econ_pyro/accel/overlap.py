"""Host and device at work at the same time: batches prepared ahead, results copied later."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """A function of the step's number, called in a thread for the step after the one asked for.

    Args:
        function: of the number of a step; must depend on nothing that a step changes.
    """

    def __init__(self, function: Callable[[int], T]) -> None:
        self._function = function
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """The function's value, prefetched if the last call was for the step before."""
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._function, step)
        result = self._next[1].result()
        self._next = step + 1, self._thread.submit(self._function, step + 1)
        return result


class HostCopy:
    """An asynchronous copy of a tensor on the host.

    Unlike ``tensor.cpu()``, reading it does not wait for work queued on the GPU afterwards.

    Args:
        tensor: on any device; on a CPU it is not copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=True)
        self._event = None
        if tensor.is_cuda:
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def get(self) -> Tensor:
        """The copy, once it is complete."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
