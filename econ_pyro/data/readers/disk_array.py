"""Rows of one shape in a temporary file: written one by one, then read by number.

What must be decoded in order (a compressed record file, a video) is decoded once and can then be
taken in any order, without being held in memory. The file has no name and is gone with the
process; it is in the folder that the environment variable TMPDIR names.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import numpy as np

_BLOCK = 1 << 20


class Spool:
    """A growing array on disk."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="econ-pyro-")
        weakref.finalize(self, _close, self._file)  # what is mapped stays mapped
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, row: np.ndarray) -> None:
        """Add a row; all have the shape and the type of the first.

        Raises:
            OSError: there is no room.
        """
        if not self._n:
            self._shape, self._dtype = row.shape, row.dtype
        assert (row.shape, row.dtype) == (self._shape, self._dtype)
        with _named():
            self._file.write(np.ascontiguousarray(row).data)
        self._n += 1

    def array(self) -> np.ndarray:
        """All rows, ``(n, ...)``, mapped from the file.

        Raises:
            OSError: there is no room for the last ones.
        """
        with _named():
            self._file.flush()
        shape = (self._n, *self._shape)
        if 0 in shape:
            return np.empty(shape, self._dtype)
        return np.memmap(self._file, self._dtype, mode="r", shape=shape)


def unpack(
    stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, fortran: bool = False
) -> np.ndarray:
    """An array from a stream that can be read only once, as a temporary file that is mapped.

    Args:
        stream: at the first value.
        shape: of the array.
        dtype: of the values.
        fortran: whether the first axis varies fastest.

    Raises:
        EOFError: the stream has fewer bytes.
        OSError: there is no room.
    """
    left = math.prod(shape) * dtype.itemsize
    if not left:
        return np.empty(shape, dtype)
    file = tempfile.TemporaryFile(prefix="econ-pyro-")
    try:
        while left:
            block = stream.read(min(_BLOCK, left))
            if not block:
                raise EOFError("cut off")
            with _named():
                file.write(block)
            left -= len(block)
        with _named():
            file.flush()
        order = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", 0, shape, order)  # type: ignore[call-overload]
    finally:
        _close(file)  # what is mapped stays mapped


@contextmanager
def _named() -> Iterator[None]:
    """Say where there is no room: a file without a name says nothing."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # on a full disk it tries once more to write what it could not
        file.close()
