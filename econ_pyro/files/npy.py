"""Arrays in NumPy's own format, whose headers are checked before they are believed.

A header is Python text that names a type and a shape. It may declare more than the file holds,
more than any memory does, or Python objects, which only code can load.
"""

from __future__ import annotations

import io
import math
import mmap
import warnings
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import first_line, open_regular

_LONGEST = 10_000  # characters of a header; numpy's own limit
_MOST_AXES = 8


class Header(NamedTuple):
    """What an array is said to be."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    """Whether the first axis varies fastest."""
    start: int
    """Where its values begin, in bytes."""


def read_header(file: IO[bytes], size: int, expected: str, path: Path | str) -> Header:
    """Read a header from a file's beginning.

    Args:
        file: at its beginning; it is at the first value then.
        size: bytes of the file.
        expected: what it should be, for the error message.
        path: name of the file, for the error message.

    Raises:
        EconError: it is damaged, of a kind that is not read, or declares more than there is.
    """
    try:
        head = file.read(8)
        version = np.lib.format.read_magic(io.BytesIO(head))
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        width = 2 * version[0]
        length = file.read(width)
        characters = int.from_bytes(length, "little")
        if characters > _LONGEST:
            raise ValueError(f"a header of {characters:,} characters")
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old Pythons' numbers, of odd texts
            text = io.BytesIO(length + file.read(characters))
            shape, fortran, dtype = read[version[0]](text)
    except Exception as error:  # the text goes through Python's parser, which raises many things
        raise EconError(expected, f"{path} ({first_line(error)})") from error
    header = Header(shape, dtype, fortran, len(head) + width + characters)
    if dtype.hasobject:
        raise EconError(
            expected, f"Python objects in {path}", "it may not hold Python objects: save numbers"
        )
    whole = all(type(side) is int for side in shape)  # to Python, True is one, too
    if not whole or len(shape) > _MOST_AXES or min(shape, default=0) < 0:
        raise EconError(expected, f"{path}, of shape {str(shape)[:80]}")
    declared = math.prod(shape) * dtype.itemsize
    if header.start + declared > size:
        raise EconError(
            expected,
            f"{path}, cut off: {declared:,} bytes of values are declared, "
            f"{max(0, size - header.start):,} are there",
            "copy it again",
        )
    return header


def forget(array: object) -> None:
    """Give back the memory that looking through a mapped array has taken; it can be read again."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)


def map_npy(path: Path | str, expected: str) -> np.ndarray:
    """An array in a .npy file, mapped: what is not looked at is not read.

    Args:
        path: the file.
        expected: what it should be, for the error message.

    Raises:
        EconError: as :func:`read_header`, or there is no such file.
    """
    with open_regular(path, expected) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        shape, dtype, fortran, start = read_header(file, size, expected, path)
        if 0 in (*shape, dtype.itemsize):
            return np.empty(shape, dtype)
        order = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", start, shape, order)  # type: ignore[call-overload]
