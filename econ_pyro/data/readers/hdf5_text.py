"""Variable-length strings in HDF5 files, parsed without the HDF5 library.

HDF5 stores these strings in global heaps, and loops for ever in a damaged heap that has an entry
of length 0. The format is simple (HDF5 file format, III.E, "Global Heap")::

    array element   uint32 length, uint64 address of the heap, uint32 index in the heap
    heap            "GCOL", uint32 version, uint64 size including this header, entries
    entry           uint16 index (0: the rest is free), 6 bytes, uint64 size, data padded to 8
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import open_regular

_MAX_TEXTS = 4096
_MAX_HEAP = 256 << 10  # bytes; for short strings, HDF5 writes heaps of 4096
_ELEMENT, _HEAD, _ENTRY = struct.Struct("<IQI"), struct.Struct("<4sIQ"), struct.Struct("<HHIQ")


def read_texts(path: Path, dataset: Any) -> list[str]:
    """Read a dataset of variable-length strings.

    Args:
        path: the file.
        dataset: an open h5py dataset that is stored in the file itself.

    Raises:
        EconError: the file is damaged, or the storage layout is not supported.
    """
    count, start = dataset.size, dataset.id.get_offset()
    supported = dataset.chunks is None and start is not None and count <= _MAX_TEXTS
    if not supported or dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        raise EconError(
            f"{dataset.name} in {path} as text of a fixed length", "another kind of text",
            "write it as numpy.array(names, 'S')",
        )  # fmt: skip
    with open_regular(path, "a readable HDF5 file") as file:

        @lru_cache(None)
        def heap(address: int) -> dict[int, bytes]:
            file.seek(address)
            signature, _, size = _HEAD.unpack(file.read(_HEAD.size))
            if signature != b"GCOL" or size > _MAX_HEAP:
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
                f"{path}, damaged in the text of {dataset.name}",
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
