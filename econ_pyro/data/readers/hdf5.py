"""HDF5 files as arrays: as object-centric-library writes them, and whatever has the same names.

``image``, ``mask`` (numbers of objects, the background 0), ``visibility``, ``shape`` and further
properties, which are not used. The library's ``...-metadata.npy`` is a pickle and is not opened.

A file of this format can show what is not in it. An external link is another file's content, and
so is a virtual dataset; external storage is the bytes of any file of the machine; a filter can be
a library that is loaded. None of them is followed: every name is looked up one link after another,
and what is found is looked at before a value is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from econ_pyro.data.readers import objects_room
from econ_pyro.data.readers.arrays import Arrays, Rows
from econ_pyro.data.readers.hdf5_text import read_texts
from econ_pyro.data.readers.numpy_files import find_names
from econ_pyro.data.source_info import LIMIT
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import check_regular, first_line

MOST_CHUNK = 256 << 20
"""Bytes of the largest chunk that is read: it is unpacked as a whole."""
_MOST_TEXT = 1 << 20  # bytes of all names of classes
_MOST_NAMES = 10_000
_MOST_LINKS = 16
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # those of HDF5 itself, and lzf, which h5py brings along
_EXPECTED = "a readable HDF5 file"


def open_hdf5(path: Path, limit: int = LIMIT) -> Arrays:
    """Images and ground truth in an HDF5 file.

    Args:
        path: the file.
        limit: not needed, as nothing is read here.

    Raises:
        EconError: h5py is not installed; the file is damaged, has no images, or shows what is in
            other files.
    """
    try:
        import h5py
    except ImportError:
        raise EconError(
            "the package h5py, to read HDF5", "none installed", "pip install 'econ-pyro[hdf5]'"
        ) from None
    check_regular(path, _EXPECTED)
    try:
        file = h5py.File(path, "r")
        rows = _rows(path, file)
    except EconError:
        raise
    except Exception as error:  # h5py raises whatever fits what HDF5 says
        raise _damaged(path, "", error) from error
    # not in the file: sky, floor and the halves of the wall come first in this set
    rooms = path.name.startswith("objects_room")
    background = objects_room.MOST if rooms else None
    kept = "nothing: images are read when needed"
    return Arrays(path, "HDF5", kept, rows, background, rooms)


def _rows(path: Path, file: Any) -> Mapping[str, Rows]:
    names = []
    for name in file:
        names.append(name)
        if len(names) > _MOST_NAMES:
            raise EconError(_EXPECTED, f"{path}, with more than {_MOST_NAMES:,} names")
    arrays = [name for name in names if _is_array(path, file, name)]
    rows: dict[str, Rows] = {}
    for name, own in find_names(path, arrays).items():
        stored = _follow(path, file, own)
        _check(path, own, stored)
        rows[name] = _text(path, own, stored) if name == "classes" else _Stored(path, own, stored)
    return rows


def _is_array(path: Path, file: Any, name: str) -> bool:
    """Whether a name is an array's, or would be if it were in this file."""
    import h5py

    try:
        return isinstance(_follow(path, file, name), h5py.Dataset)
    except EconError:
        return True  # refused if somebody asks for it


def _follow(path: Path, file: Any, name: str) -> Any:
    """What a name stands for, through soft links of this file alone."""
    import h5py

    todo, at, links = [name], file, 0
    while todo:
        step = todo.pop(0)
        if not isinstance(at, h5py.Group):
            raise KeyError(name)
        link = at.get(step, getlink=True)
        if link is None:
            raise EconError(_EXPECTED, f"{path}, whose {name} is a link to nothing")
        if isinstance(link, h5py.ExternalLink):
            raise _elsewhere(path, name, f"a link to the file {link.filename!r}")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MOST_LINKS:
                raise EconError(_EXPECTED, f"{path}, whose {name} is a link to itself")
            parts = PurePosixPath(link.path).parts
            if parts and parts[0] == "/":
                at, parts = file, parts[1:]
            todo = [part for part in parts if part != "."] + todo
        elif isinstance(link, h5py.HardLink):
            at = at[step]
        else:
            raise _elsewhere(path, name, "a link of a kind that is not known")
    return at


def _check(path: Path, name: str, stored: Any) -> None:
    """Look at how an array is stored, before anything of it is read or even counted."""
    import h5py

    if not isinstance(stored, h5py.Dataset):
        raise EconError(f"an array called {name} in {path}", "something else")
    how = stored.id.get_create_plist()
    if how.get_layout() == h5py.h5d.VIRTUAL:
        raise _elsewhere(path, name, "virtual, parts of other files")
    if how.get_external_count():
        other = how.get_external(0)[0].decode(errors="replace")
        raise _elsewhere(path, name, f"stored in the file {other!r}")
    for i in range(how.get_nfilters()):
        if (number := how.get_filter(i)[0]) not in _FILTERS:
            raise EconError(
                f"{name} in {path} packed with gzip, lzf, szip or not at all",
                f"filter {number}", "repack it: h5repack -f GZIP=1",
            )  # fmt: skip
    shape, dtype = stored.shape, stored.dtype
    if shape is None or (dtype.hasobject and name != "classes"):
        what = "nothing" if shape is None else "objects"
        raise EconError(f"an array of numbers called {name} in {path}", what)
    size = stored.chunks and int(np.prod(stored.chunks, dtype=np.float64)) * dtype.itemsize
    if size and size > MOST_CHUNK:
        raise EconError(
            f"chunks of at most {MOST_CHUNK:,} bytes in {name} of {path}", f"{size:,}",
            "repack it with smaller ones: h5repack -l CHUNK=...",
        )  # fmt: skip
    if 0 not in shape and not stored.id.get_storage_size():
        raise EconError(f"values in {name} of {path}", f"none, though {shape} are declared")


def _text(path: Path, name: str, stored: Any) -> np.ndarray:
    """Names, as bytes or text; what is no name is for others to refuse."""
    import h5py

    if np.prod(stored.shape, dtype=np.float64) * stored.dtype.itemsize > _MOST_TEXT:
        raise EconError(f"names of classes of at most {_MOST_TEXT:,} bytes in {path}", "more")
    if stored.dtype.hasobject:
        if h5py.check_string_dtype(stored.dtype) is None:
            raise EconError(f"names of classes in {name} of {path}", "objects")
        return np.array(read_texts(path, stored), object).reshape(stored.shape)
    return np.asarray(_Stored(path, name, stored)[:])


class _Stored:
    """An array in the file; damage that shows when it is read is named."""

    def __init__(self, path: Path, name: str, stored: Any) -> None:
        self.shape, self.dtype = stored.shape, stored.dtype
        self._path, self._name, self._stored = path, name, stored

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._stored[index]
        except Exception as error:  # h5py raises whatever fits what HDF5 says
            raise _damaged(self._path, f" in {self._name}", error) from error


def _damaged(path: Path, where: str, error: Exception) -> EconError:
    return EconError(_EXPECTED, f"{path}, damaged{where} ({first_line(error)})", "copy it again")


def _elsewhere(path: Path, name: str, what: str) -> EconError:
    return EconError(
        f"arrays in the file {path} itself", f"{name}, {what}",
        "write their values into one file, with h5py: new['image'] = old['image'][:]",
    )  # fmt: skip
