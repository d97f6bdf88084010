"""Temporary folder of uploads, with bounded size."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory

MAX_BYTES = 64 << 20
"""Maximum total size in bytes; the oldest files are removed first."""
MAX_FILES = 64
"""Maximum number of files."""
MAX_AGE = 600.0
"""Seconds after which a file is removed."""
MIN_AGE = 60.0
"""Seconds before an empty file or folder is removed, as it may be one that is being written."""


@contextmanager
def folder() -> Iterator[Path]:
    """Create a temporary folder for gradio's uploads, which is removed when the block ends.

    Enter the block before building the page.
    """
    with TemporaryDirectory(prefix="econ-page-", ignore_cleanup_errors=True) as made:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = made
        try:
            yield Path(made)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def sweep(root: Path, now: float | None = None) -> None:
    """Remove old files, and the oldest ones while the number or total size exceeds its maximum.

    Args:
        root: the folder.
        now: current time in seconds since the epoch; default: the system's.
    """
    now = time.time() if now is None else now
    files: list[tuple[float, int, str]] = []
    rest: list[tuple[float, int, str]] = []
    for place, folders, names in os.walk(root, topdown=False):
        for path in (os.path.join(place, name) for name in [*names, *folders]):
            with suppress(OSError):
                state = os.lstat(path)
                # gradio leaves an empty file for each file that it moves
                kind = files if S_ISREG(state.st_mode) and state.st_size else rest
                kind.append((state.st_mtime, state.st_size, path))
    total = 0
    for number, (changed, size, path) in enumerate(sorted(files, reverse=True), start=1):
        total += size
        if number > MAX_FILES or total > MAX_BYTES or now - changed > MAX_AGE:
            with suppress(OSError):
                os.unlink(path)
    for changed, _, path in rest:
        if now - changed > MIN_AGE:
            with suppress(OSError):  # the folder is not empty
                (os.rmdir if os.path.isdir(path) else os.unlink)(path)
