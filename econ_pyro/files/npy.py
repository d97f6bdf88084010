"""Reading .npy files with validated headers.

A header is a Python literal with a dtype and a shape. It may declare more than the file contains,
more than fits into memory, or Python objects, which are pickled.
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

_MAX_HEADER = 10_000  # characters; NumPy's own limit
_MAX_AXES = 8


class Header(NamedTuple):
    """Header of a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    """Whether the array is in Fortran order."""
    start: int
    """Offset of the values in bytes."""


def read_header(file: IO[bytes], size: int, expected: str, path: Path | str) -> Header:
    """Read a header, leaving the file at the first value.

    Args:
        file: positioned at its beginning.
        size: size of the file in bytes.
        expected: what the file should be, for the error message.
        path: name of the file, for the error message.

    Raises:
        EconError: the header is damaged or of an unsupported version, or declares Python objects
            or more values than the file contains.
    """
    try:
        head = file.read(8)
        version = np.lib.format.read_magic(io.BytesIO(head))
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        width = 2 * version[0]
        length = file.read(width)
        characters = int.from_bytes(length, "little")
        if characters > _MAX_HEADER:
            raise ValueError(f"a header of {characters:,} characters")
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated literals
            text = io.BytesIO(length + file.read(characters))
            shape, fortran, dtype = read[version[0]](text)
    except Exception as error:  # Python's parser raises many exceptions
        raise EconError(expected, f"{path} ({first_line(error)})") from error
    header = Header(shape, dtype, fortran, len(head) + width + characters)
    if dtype.hasobject:
        raise EconError(
            expected, f"Python objects in {path}", "it may not hold Python objects: save numbers"
        )
    integers = all(type(side) is int for side in shape)  # excludes bool
    if not integers or len(shape) > _MAX_AXES or min(shape, default=0) < 0:
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


def release_pages(array: object) -> None:
    """Release the resident pages of a memory-mapped array, which stays readable."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)


def map_npy(path: Path | str, expected: str) -> np.ndarray:
    """Memory-map the array of a .npy file.

    Args:
        path: the file.
        expected: what the file should be, for the error message.

    Raises:
        EconError: the file does not exist, or as :func:`read_header`.
    """
    with open_regular(path, expected) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        shape, dtype, fortran, start = read_header(file, size, expected, path)
        if 0 in (*shape, dtype.itemsize):
            return np.empty(shape, dtype)
        order = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", start, shape, order)  # type: ignore[call-overload]
