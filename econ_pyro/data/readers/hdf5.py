"""HDF5 files as arrays, as written by object-centric-library or with the same names.

The library writes ``image``, ``mask`` (index maps, background 0), ``visibility``, ``shape`` and
other properties, which are ignored. Its ``...-metadata.npy`` is a pickle and is not opened.

HDF5 files can refer to data outside of themselves: external links and virtual datasets to other
HDF5 files, external storage to the bytes of any file, and filters to libraries to load. All of
these are refused. Names are resolved one link at a time, and the storage of an array is inspected
before its values are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from econ_pyro.data.base import DEFAULT_LIMIT
from econ_pyro.data.readers import objects_room
from econ_pyro.data.readers.arrays import ArrayFile, LazyArray
from econ_pyro.data.readers.hdf5_text import read_texts
from econ_pyro.data.readers.numpy_files import find_names
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import check_regular, first_line

MAX_CHUNK = 256 << 20
"""Maximum size of a chunk in bytes; chunks are decompressed as a whole."""
_MAX_TEXT = 1 << 20  # bytes of all class names
_MAX_NAMES = 10_000
_MAX_LINKS = 16
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # HDF5's own, and lzf, which h5py includes
_EXPECTED = "a readable HDF5 file"


def open_hdf5(path: Path, limit: int = DEFAULT_LIMIT) -> ArrayFile:
    """Open images and ground truth in an HDF5 file.

    Args:
        path: the file.
        limit: unused, as images are read on demand.

    Raises:
        EconError: h5py is not installed, or the file is damaged, has no images, or refers to
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
        arrays = _arrays(path, file)
    except EconError:
        raise
    except Exception as error:  # h5py maps HDF5's errors to many exceptions
        raise _damaged(path, "", error) from error
    # the file does not say which of its entities are background
    is_objects_room = path.name.startswith("objects_room")
    background = objects_room.MAX_BACKGROUND if is_objects_room else None
    kept = "nothing: images are read when needed"
    return ArrayFile(path, "HDF5", kept, arrays, background, is_objects_room)


def _arrays(path: Path, file: Any) -> Mapping[str, LazyArray]:
    names = []
    for name in file:
        names.append(name)
        if len(names) > _MAX_NAMES:
            raise EconError(_EXPECTED, f"{path}, with more than {_MAX_NAMES:,} names")
    datasets = [name for name in names if _is_dataset(path, file, name)]
    arrays: dict[str, LazyArray] = {}
    for name, own in find_names(path, datasets).items():
        dataset = _resolve(path, file, own)
        _check(path, own, dataset)
        reader = _read_names if name == "classes" else _LazyDataset
        arrays[name] = reader(path, own, dataset)
    return arrays


def _is_dataset(path: Path, file: Any, name: str) -> bool:
    """Whether a name is that of a dataset, or cannot be resolved within this file."""
    import h5py

    try:
        return isinstance(_resolve(path, file, name), h5py.Dataset)
    except EconError:
        return True  # an error if it is needed


def _resolve(path: Path, file: Any, name: str) -> Any:
    """Resolve a name through soft links within this file."""
    import h5py

    remaining, node, links = [name], file, 0
    while remaining:
        part = remaining.pop(0)
        if not isinstance(node, h5py.Group):
            raise KeyError(name)
        link = node.get(part, getlink=True)
        if link is None:
            raise EconError(_EXPECTED, f"{path}, whose {name} is a broken link")
        if isinstance(link, h5py.ExternalLink):
            raise _external(path, name, f"a link to the file {link.filename!r}")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MAX_LINKS:
                raise EconError(_EXPECTED, f"{path}, whose {name} is a link to itself")
            parts = PurePosixPath(link.path).parts
            if parts and parts[0] == "/":
                node, parts = file, parts[1:]
            remaining = [part for part in parts if part != "."] + remaining
        elif isinstance(link, h5py.HardLink):
            node = node[part]
        else:
            raise _external(path, name, "a link of an unknown kind")
    return node


def _check(path: Path, name: str, dataset: Any) -> None:
    """Inspect the storage of an array before anything is read or allocated."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise EconError(f"an array called {name} in {path}", "something else")
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise _external(path, name, "virtual, parts of other files")
    if properties.get_external_count():
        other = properties.get_external(0)[0].decode(errors="replace")
        raise _external(path, name, f"stored in the file {other!r}")
    for i in range(properties.get_nfilters()):
        if (number := properties.get_filter(i)[0]) not in _FILTERS:
            raise EconError(
                f"{name} in {path} packed with gzip, lzf, szip or not at all",
                f"filter {number}", "repack it: h5repack -f GZIP=1",
            )  # fmt: skip
    shape, dtype = dataset.shape, dataset.dtype
    if shape is None or (dtype.hasobject and name != "classes"):
        what = "nothing" if shape is None else "objects"
        raise EconError(f"an array of numbers called {name} in {path}", what)
    size = dataset.chunks and int(np.prod(dataset.chunks, dtype=np.float64)) * dtype.itemsize
    if size and size > MAX_CHUNK:
        raise EconError(
            f"chunks of at most {MAX_CHUNK:,} bytes in {name} of {path}", f"{size:,}",
            "repack it with smaller ones: h5repack -l CHUNK=...",
        )  # fmt: skip
    if 0 not in shape and not dataset.id.get_storage_size():
        raise EconError(f"values in {name} of {path}", f"none, though {shape} are declared")


def _read_names(path: Path, name: str, dataset: Any) -> np.ndarray:
    """Class names as bytes or text; the values are validated elsewhere."""
    import h5py

    if np.prod(dataset.shape, dtype=np.float64) * dataset.dtype.itemsize > _MAX_TEXT:
        raise EconError(f"names of classes of at most {_MAX_TEXT:,} bytes in {path}", "more")
    if dataset.dtype.hasobject:
        if h5py.check_string_dtype(dataset.dtype) is None:
            raise EconError(f"names of classes in {name} of {path}", "objects")
        return np.array(read_texts(path, dataset), object).reshape(dataset.shape)
    return np.asarray(_LazyDataset(path, name, dataset)[:])


class _LazyDataset:
    """An array in the file; reading damaged values raises an error that names the array."""

    def __init__(self, path: Path, name: str, dataset: Any) -> None:
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._path, self._name, self._dataset = path, name, dataset

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._dataset[index]
        except Exception as error:  # h5py maps HDF5's errors to many exceptions
            raise _damaged(self._path, f" in {self._name}", error) from error


def _damaged(path: Path, where: str, error: Exception) -> EconError:
    return EconError(_EXPECTED, f"{path}, damaged{where} ({first_line(error)})", "copy it again")


def _external(path: Path, name: str, kind: str) -> EconError:
    return EconError(
        f"arrays in the file {path} itself", f"{name}, {kind}",
        "write their values into one file, with h5py: new['image'] = old['image'][:]",
    )  # fmt: skip
