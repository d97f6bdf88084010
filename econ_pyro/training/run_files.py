"""What a run keeps of its training: rows of metrics, and its two checkpoints."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from econ_pyro.files import storage
from econ_pyro.training import checkpoint, metrics_file
from econ_pyro.training.async_checkpoint import AsyncCheckpointer

Row = dict[str, Any]


class RunFiles:
    """The files that training writes into a run's folder.

    A row is there before the checkpoint of its step: whoever resumes drops rows that are younger
    than the checkpoint, and misses none.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._saver = run, AsyncCheckpointer()

    def begin(self, done: list[Row], state: dict[str, Any]) -> None:
        """Write the rows so far and, of a run at its beginning, a first checkpoint.

        Args:
            done: rows up to the step where training begins or goes on.
            state: at that step.

        Raises:
            OSError: they could not be written.
        """
        storage.write_text(self._run / checkpoint.METRICS, metrics_file.to_text(done))
        if state["step"] == 0:
            self.last(state)
            self.wait()

    def add(self, row: Row) -> None:
        """Append a row: all of it, or nothing."""
        path = self._run / checkpoint.METRICS
        size = path.stat().st_size
        try:
            with open(path, "a") as f:
                f.write(metrics_file.to_line(row))
        except OSError as error:
            with suppress(OSError):  # half a line is dropped by whoever reads it, too
                os.truncate(path, size)
            raise OSError(error.errno, error.strerror, str(path)) from error

    def best(self, state: dict[str, Any]) -> None:
        """Have the checkpoint of the smallest validation loss written."""
        self._saver.save(self._run / checkpoint.BEST, state)

    def last(self, state: dict[str, Any]) -> None:
        """Have the checkpoint written that training goes on from."""
        self._saver.save(self._run / checkpoint.LAST, state)

    def wait(self) -> None:
        """Until all is written.

        Raises:
            OSError: something could not be; what was asked for after it is not written either.
        """
        self._saver.wait()
