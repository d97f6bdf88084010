"""Which kind of data a path is, and the source of images for it: one argument for all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from econ_pyro.data.images import Fit, warn_of_skipped
from econ_pyro.data.readers.array_source import ArrayScenes
from econ_pyro.data.readers.hdf5 import open_hdf5
from econ_pyro.data.readers.image_folder import ImageFolder
from econ_pyro.data.readers.multi_object_datasets import read_records
from econ_pyro.data.readers.numpy_files import open_npy, open_npz
from econ_pyro.data.readers.tfrecord import is_tfrecord
from econ_pyro.data.readers.video import is_video
from econ_pyro.data.source_info import LIMIT
from econ_pyro.errors import EconError, check_positive
from econ_pyro.files.untrusted import open_regular, walk

Kind = Literal["pictures", "npy", "npz", "hdf5", "records"]
KINDS = (
    "a dataset folder, a folder of images and videos, a video or animation, .npy, .npz, HDF5 or "
    "TFRecords"
)
"""What ``--data`` takes, for messages."""

_RECORDS = re.compile(r"\.tfrecords?($|[.-])")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
_OPEN = {"npy": open_npy, "npz": open_npz, "hdf5": open_hdf5}


def kind_of(path: Path) -> Kind:
    """What a file or a folder is: by how a file begins, else by its name.

    Raises:
        EconError: there is nothing, or nothing that is known.
    """
    if path.is_dir():
        return "records" if record_files(path)[0] else "pictures"
    with open_regular(path, KINDS) as file:
        head = file.read(12)
    if not head:
        raise EconError(KINDS, f"{path}, an empty file")
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04") and path.suffix.lower() == ".npz":
        return "npz"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:] == b"WEBP"):
        return "pictures"
    if is_video(path):
        return "pictures"
    if _RECORDS.search(path.name) or is_tfrecord(path):
        return "records"
    raise EconError(KINDS, f"{path}, which is none of these")


def record_files(folder: Path) -> tuple[list[Path], dict[Path, EconError]]:
    """Parts of a record set in a folder, in order: files called ``...tfrecords...``.

    Returns:
        The parts, and an error for whatever else in the folder is no regular file.
    """
    files, odd = walk(folder, "TFRecords")
    return [path for path in files if _RECORDS.search(path.name)], odd


def open_images(
    path: Path | str, size: int, fit: Fit = "crop", strict: bool = False, limit: int = LIMIT
) -> ImageFolder | ArrayScenes:
    """All images of a file or a folder that is no dataset folder.

    Args:
        path: what ``--data`` takes.
        size: height and width that the images are brought to, in pixels.
        fit: how they become square.
        strict: raise on the first unreadable file of a folder instead of skipping it.
        limit: most images to take.

    Raises:
        EconError: it is of no known kind, or not readable as what it seems to be.
    """
    check_positive("--limit", limit)
    path = Path(path)
    kind = kind_of(path)
    if kind == "pictures":
        return ImageFolder(path, size, fit, strict, limit)
    if kind == "records":
        parts, odd = record_files(path) if path.is_dir() else ([path], {})
        if odd:
            if strict:
                raise next(iter(odd.values()))
            warn_of_skipped(list(odd.values()), len(parts) + len(odd), "TFRecords")
        return ArrayScenes(read_records(parts, size, fit, limit), size, fit, limit)
    return ArrayScenes(_OPEN[kind](path, limit), size, fit, limit)
