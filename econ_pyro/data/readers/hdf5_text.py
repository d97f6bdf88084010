"""Text of any length in HDF5 files, read here because HDF5 may never come back from it.

HDF5 keeps such texts in heaps and walks through a damaged one for ever: an entry without a length
does not lead on to the next. Their form is short (HDF5 file format, III.E, "Global Heap")::

    an element of the array   uint32 length, uint64 address of a heap, uint32 number in it
    a heap                    "GCOL", uint32 version, uint64 size with this head, then its entries
    an entry                  uint16 number (0: the rest is free), 6 bytes, uint64 size, data to 8
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import open_regular

_MOST_TEXTS = 4096
_MOST_HEAP = 256 << 10  # bytes; HDF5 makes them of 4096 if the texts are short
_ELEMENT, _HEAD, _ENTRY = struct.Struct("<IQI"), struct.Struct("<4sIQ"), struct.Struct("<HHIQ")


def read_texts(path: Path, stored: Any) -> list[str]:
    """Texts of a dataset whose type is text of any length.

    Args:
        path: the file.
        stored: an open dataset of h5py, known to be in the file itself.

    Raises:
        EconError: the file is damaged, or the texts are stored in an unusual way.
    """
    count, start = stored.size, stored.id.get_offset()
    usual = stored.chunks is None and start is not None and count <= _MOST_TEXTS
    if not usual or stored.file.id.get_create_plist().get_sizes() != (8, 8):
        raise EconError(
            f"{stored.name} in {path} as text of a fixed length", "another kind of text",
            "write it as numpy.array(names, 'S')",
        )  # fmt: skip
    with open_regular(path, "a readable HDF5 file") as file:

        @lru_cache(None)
        def heap(address: int) -> dict[int, bytes]:
            file.seek(address)
            signature, _, size = _HEAD.unpack(file.read(_HEAD.size))
            if signature != b"GCOL" or size > _MOST_HEAP:
                raise ValueError("no heap where one should be")
            return _entries(file.read(size - _HEAD.size))

        try:
            file.seek(start)
            elements = list(_ELEMENT.iter_unpack(file.read(count * _ELEMENT.size)))
            texts = [
                heap(address)[n][:length] if length else b"" for length, address, n in elements
            ]
        except (struct.error, OSError, ValueError, KeyError, OverflowError) as error:
            raise EconError(
                "a readable HDF5 file",
                f"{path}, damaged in the text of {stored.name}",
                "copy it again",
            ) from error
    return [text.rstrip(b"\0").decode(errors="replace") for text in texts]


def _entries(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ENTRY.size <= len(data):
        number, _, _, size = _ENTRY.unpack_from(data, at)
        if number == 0:
            break
        at += _ENTRY.size
        if at + size > len(data):
            raise ValueError("an entry longer than its heap")
        found[number] = data[at : at + size]
        at += -(-size // 8) * 8
    return found
