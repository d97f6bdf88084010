"""Files that training writes: metrics and checkpoints."""

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
    """Writes the metrics and checkpoints of a run.

    The row of a step is written before the checkpoint of the step. Resuming drops rows later than
    the checkpoint, so that no row is missing.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._checkpointer = run, AsyncCheckpointer()

    def begin(self, done: list[Row], state: dict[str, Any]) -> None:
        """Write the rows so far and, for a new run, a first checkpoint.

        Args:
            done: rows up to the step at which training starts or resumes.
            state: checkpoint of that step.

        Raises:
            OSError: a file could not be written.
        """
        storage.write_text(self._run / checkpoint.METRICS, metrics_file.to_text(done))
        if state["step"] == 0:
            self.last(state)
            self.wait()

    def add(self, row: Row) -> None:
        """Append a row, completely or not at all."""
        path = self._run / checkpoint.METRICS
        size = path.stat().st_size
        try:
            with open(path, "a") as f:
                f.write(metrics_file.to_line(row))
        except OSError as error:
            with suppress(OSError):  # readers also drop incomplete lines
                os.truncate(path, size)
            raise OSError(error.errno, error.strerror, str(path)) from error

    def best(self, state: dict[str, Any]) -> None:
        """Write the checkpoint with the lowest validation loss, asynchronously."""
        self._checkpointer.save(self._run / checkpoint.BEST, state)

    def last(self, state: dict[str, Any]) -> None:
        """Write the checkpoint from which training resumes, asynchronously."""
        self._checkpointer.save(self._run / checkpoint.LAST, state)

    def wait(self) -> None:
        """Wait until all checkpoints are written.

        Raises:
            OSError: a checkpoint could not be written; later ones are not written either.
        """
        self._checkpointer.wait()
