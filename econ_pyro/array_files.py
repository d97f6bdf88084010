"""NumPy and HDF5 files as arrays, by the names that others give them; scenes as such a file.

HDF5 is read as object-centric-library writes it: ``image``, ``mask`` (numbers of objects, the
background 0), ``visibility``, ``shape`` and further properties, which are not used. Its
``...-metadata.npy`` is a pickle and is not opened.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from econ_pyro import objects_room
from econ_pyro.arrays import Arrays, Rows
from econ_pyro.errors import EconError
from econ_pyro.files import write_atomically
from econ_pyro.scenes import Scenes

NAMES = {
    "image": ("image", "images"),
    "mask": ("mask", "masks", "segmentation"),
    "amodal": ("amodal", "amodal_mask", "amodal_masks"),
    "label": ("label", "labels", "shape"),
    "visibility": ("visibility",),
    "classes": ("classes",),
}
"""What an array may be called."""
_NO_PICKLE = "it may not hold Python objects: save numbers"


def open_npy(path: Path) -> Arrays:
    """Images alone, mapped from a .npy file.

    Raises:
        EconError: it is damaged, or holds Python objects.
    """
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _unreadable("a readable .npy file", path, error) from error
    return Arrays(path, "a NumPy array", "nothing: images are read when needed", {"image": images})


def open_npz(path: Path) -> Arrays:
    """Images and ground truth in a .npz archive.

    Raises:
        EconError: it is damaged, holds Python objects, or has no images.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            names = _found(path, archive.files)
            rows = {name: archive[stored] for name, stored in names.items()}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable("a readable .npz archive", path, error) from error
    return Arrays(path, "a NumPy archive", "its arrays as they are, in memory", rows)


def open_hdf5(path: Path) -> Arrays:
    """Images and ground truth in an HDF5 file.

    Raises:
        EconError: h5py is not installed; the file is damaged or has no images.
    """
    try:
        import h5py
    except ImportError:
        raise EconError(
            "the package h5py, to read HDF5", "none installed", "pip install 'econ-pyro[hdf5]'"
        ) from None
    try:
        file = h5py.File(path, "r")
        stored = {name: v for name in file if isinstance(v := file[name], h5py.Dataset)}
        rows: Mapping[str, Rows] = {
            name: _Decoded(stored[own]) if name == "classes" else stored[own]
            for name, own in _found(path, list(stored)).items()
        }
    except (OSError, KeyError, RuntimeError) as error:
        raise _unreadable("a readable HDF5 file", path, error) from error
    # not in the file: sky, floor and the halves of the wall come first in this set
    rooms = path.name.startswith("objects_room")
    background = objects_room.MOST if rooms else None
    kept = "nothing: images are read when needed"
    return Arrays(path, "HDF5", kept, rows, background, rooms)


def save_npz(path: Path | str, scenes: Scenes, classes: Sequence[str]) -> None:
    """Write scenes with their ground truth as an archive that :func:`open_npz` reads.

    Args:
        path: the file, .npz.
        scenes: what to write; images as 8 bits a channel.
        classes: names of the classes, by label.

    Raises:
        EconError: the file is not called .npz, there are no objects, or a class has no name.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise EconError("a file called .npz", str(path))
    if not scenes.label.numel():
        raise EconError(f"scenes with objects to write into {path}", "none")
    if (most := int(scenes.label.max())) >= len(classes):
        raise EconError(f"names of {most + 1} classes", f"{len(classes)}: {' '.join(classes)}")
    slots = scenes.region.shape[1]
    number = torch.arange(1, slots + 1, dtype=torch.int16)[:, None, None]
    rows = {
        "image": (scenes.image.permute(0, 2, 3, 1) * 255).round().byte(),
        "mask": (scenes.region * number).sum(1, dtype=torch.int16),
        "amodal": scenes.mask,
        "label": scenes.label,
    }
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in rows.items()}
    arrays["classes"] = np.array(list(classes))
    write_atomically(path, lambda p: np.savez_compressed(p, **arrays))


class _Decoded:
    """Text, which h5py gives as bytes."""

    def __init__(self, stored: Any) -> None:
        self.shape, self.dtype = stored.shape, stored.dtype
        self._text = stored.asstr()[:]

    def __getitem__(self, index: Any) -> Any:
        return self._text[index]


def _found(path: Path, stored: list[str]) -> dict[str, str]:
    """Names in the file by our names."""
    found = {
        name: own for name, names in NAMES.items() if (own := next(
            (n for n in names if n in stored), None))
    }  # fmt: skip
    if "image" not in found and len(stored) == 1:
        found["image"] = stored[0]
    if "image" not in found:
        raise EconError(
            f"an array called image in {path}",
            ", ".join(sorted(stored)) or "no arrays",
            f"names that are known: {', '.join(n for names in NAMES.values() for n in names)}",
        )
    return found


def _unreadable(expected: str, path: Path, error: Exception) -> EconError:
    if isinstance(error, PermissionError):
        return EconError(expected, f"{path}, which may not be read")
    said = str(error)
    if "allow_pickle" in said or "Python objects" in said:
        return EconError(expected, f"Python objects in {path}", _NO_PICKLE)
    return EconError(expected, f"{path} ({said.splitlines()[0] if said else 'cut off'})")
