"""What the next step will need, prepared while a device is busy with this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """A function of a step's number, called in a thread for the step after the one asked for.

    Args:
        function: of the number of a step; must depend on nothing that a step changes.
    """

    def __init__(self, function: Callable[[int], T]) -> None:
        self._function = function
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """What the function gives, prepared if the last call was for the step before."""
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._function, step)
        result = self._next[1].result()
        self._next = step + 1, self._thread.submit(self._function, step + 1)
        return result
