"""The folder of what visitors upload: of a bounded size, whatever is sent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory

MAX_BYTES = 64 << 20
"""Bytes of all that lie there: the oldest files go first."""
MAX_FILES = 64
"""How many."""
OLDEST = 600.0
"""Seconds after which a file goes."""
IN_USE = 60.0
"""Seconds in which an empty file or folder may be one that is being filled."""


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of this process alone, where gradio puts uploads; it goes when the block ends.

    To be entered before the page is built.
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
    """Remove what is too old, and the oldest files while there are too many or too large ones.

    Args:
        root: the folder.
        now: seconds since the epoch; the present if not given.
    """
    now = time.time() if now is None else now
    files: list[tuple[float, int, str]] = []
    rest: list[tuple[float, int, str]] = []
    for place, folders, names in os.walk(root, topdown=False):
        for path in (os.path.join(place, name) for name in [*names, *folders]):
            with suppress(OSError):
                state = os.lstat(path)
                # gradio leaves an empty file in the folder for each one that it hands on
                kind = files if S_ISREG(state.st_mode) and state.st_size else rest
                kind.append((state.st_mtime, state.st_size, path))
    total = 0
    for number, (changed, size, path) in enumerate(sorted(files, reverse=True), start=1):
        total += size
        if number > MAX_FILES or total > MAX_BYTES or now - changed > OLDEST:
            with suppress(OSError):
                os.unlink(path)
    for changed, _, path in rest:
        if now - changed > IN_USE:
            with suppress(OSError):  # a folder that is not empty
                (os.rmdir if os.path.isdir(path) else os.unlink)(path)
