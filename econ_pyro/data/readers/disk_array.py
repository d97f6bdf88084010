"""Arrays in temporary files: random access to data that can only be decoded in order.

Videos and compressed record files are decoded once, row by row, without being held in memory. The
temporary file is unnamed, lies in ``$TMPDIR``, and is deleted when the process ends.
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


class DiskArray:
    """A growing array on disk."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="econ-pyro-")
        weakref.finalize(self, _close, self._file)  # maps of the file stay valid
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, row: np.ndarray) -> None:
        """Append a row of the same shape and dtype as the first.

        Raises:
            OSError: the disk is full.
        """
        if not self._n:
            self._shape, self._dtype = row.shape, row.dtype
        assert (row.shape, row.dtype) == (self._shape, self._dtype)
        with _name_folder():
            self._file.write(np.ascontiguousarray(row).data)
        self._n += 1

    def array(self) -> np.ndarray:
        """All rows, ``(n, ...)``, memory-mapped.

        Raises:
            OSError: the disk is full.
        """
        with _name_folder():
            self._file.flush()
        shape = (self._n, *self._shape)
        if 0 in shape:
            return np.empty(shape, self._dtype)
        return np.memmap(self._file, self._dtype, mode="r", shape=shape)


def extract_array(
    stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, fortran: bool = False
) -> np.ndarray:
    """Copy an array from a stream to a temporary file and map it.

    Args:
        stream: positioned at the first value.
        shape: shape of the array.
        dtype: type of the values.
        fortran: whether the array is in Fortran order.

    Raises:
        EOFError: the stream ends early.
        OSError: the disk is full.
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
            with _name_folder():
                file.write(block)
            left -= len(block)
        with _name_folder():
            file.flush()
        order = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", 0, shape, order)  # type: ignore[call-overload]
    finally:
        _close(file)  # the map stays valid


@contextmanager
def _name_folder() -> Iterator[None]:
    """Add the temporary folder to errors, as the file is unnamed."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # on a full disk, closing retries the failed write
        file.close()
