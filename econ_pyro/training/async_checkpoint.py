"""Checkpoints that are written while training goes on.

On a GPU, steps of the paper's size come every 5 ms, and a checkpoint takes 0.2 s to write.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from econ_pyro.training.checkpoint import save_checkpoint

MAX_PENDING = 2  # a validation's best and last


class AsyncCheckpointer:
    """Writes checkpoints in a thread, one after the other, each as it was asked for.

    After one that could not be written none is: a ``last.pt`` that knows of a better ``best.pt``
    than there is would have a resumed run keep the worse one.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting = deque[Future[None]]()
        self._failed = False

    def save(self, path: Path, state: dict[str, Any]) -> None:
        """Have a checkpoint written; what becomes of the tensors in it afterwards plays no part.

        Raises:
            OSError: one from before could not be written.
        """
        self.wait(MAX_PENDING - 1)
        # copied here: another thread must ask nothing of a GPU while this one captures a graph
        self._waiting.append(self._thread.submit(self._write, path, _on_host(state)))

    def wait(self, most: int = 0) -> None:
        """Until at most so many are still to be written.

        Raises:
            OSError: one could not be written.
        """
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        if self._failed:
            return
        try:
            save_checkpoint(path, state)
        except BaseException:
            self._failed = True
            raise


def _on_host(value: Any) -> Any:
    """A copy of plain containers, with copies of the tensors in them."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(v) for key, v in value.items()}
    return [_on_host(v) for v in value] if isinstance(value, list) else value
