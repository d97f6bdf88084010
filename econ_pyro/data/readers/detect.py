"""Format detection: opens any supported file or folder as a source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from econ_pyro.data.base import DEFAULT_LIMIT
from econ_pyro.data.images import warn_skipped
from econ_pyro.data.readers.array_source import ArraySource
from econ_pyro.data.readers.hdf5 import open_hdf5
from econ_pyro.data.readers.image_folder import ImageFolder
from econ_pyro.data.readers.multi_object_datasets import read_tfrecords
from econ_pyro.data.readers.numpy_files import open_npy, open_npz
from econ_pyro.data.readers.tfrecord import is_tfrecord
from econ_pyro.data.readers.video import is_video
from econ_pyro.data.resize import Fit, Resample
from econ_pyro.errors import EconError, check_positive
from econ_pyro.files.untrusted import open_regular, walk

Format = Literal["images", "npy", "npz", "hdf5", "tfrecords"]
SUPPORTED = (
    "a dataset folder, a folder of images and videos, a video or animation, .npy, .npz, HDF5 or "
    "TFRecords"
)
"""What ``--data`` accepts, for messages."""

_TFRECORD_NAME = re.compile(r"\.tfrecords?($|[.-])")
_IMAGE_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
_OPEN = {"npy": open_npy, "npz": open_npz, "hdf5": open_hdf5}


def detect_format(path: Path) -> Format:
    """Detect the format of a file or folder, by content first and by name second.

    Raises:
        EconError: the path does not exist, or its format is unknown.
    """
    if path.is_dir():
        return "tfrecords" if tfrecord_files(path)[0] else "images"
    with open_regular(path, SUPPORTED) as file:
        head = file.read(12)
    if not head:
        raise EconError(SUPPORTED, f"{path}, an empty file")
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04") and path.suffix.lower() == ".npz":
        return "npz"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(_IMAGE_SIGNATURES) or (head[:4] == b"RIFF" and head[8:] == b"WEBP"):
        return "images"
    if is_video(path):
        return "images"
    if _TFRECORD_NAME.search(path.name) or is_tfrecord(path):
        return "tfrecords"
    raise EconError(SUPPORTED, f"{path}, which has none of these formats")


def tfrecord_files(folder: Path) -> tuple[list[Path], dict[Path, EconError]]:
    """List the TFRecord files of a folder in order: files named ``*.tfrecord[s]*``.

    Returns:
        The files, and an error for each entry that is not a regular file.
    """
    files, irregular = walk(folder, "TFRecords")
    return [path for path in files if _TFRECORD_NAME.search(path.name)], irregular


def open_images(
    path: Path | str,
    size: int,
    fit: Fit = "crop",
    strict: bool = False,
    limit: int = DEFAULT_LIMIT,
    resample: Resample = "auto",
) -> ImageFolder | ArraySource:
    """Open all images of a file or folder, except of a dataset folder.

    Args:
        path: any path for ``--data``.
        size: height and width of the resized images in pixels.
        fit: how images are made square.
        strict: raise on the first unreadable file of a folder instead of skipping it.
        limit: maximum number of images.
        resample: how images are resized.

    Raises:
        EconError: the format is unknown, or the data are damaged.
    """
    check_positive("--limit", limit)
    path = Path(path)
    detected = detect_format(path)
    if detected == "images":
        return ImageFolder(path, size, fit, strict, limit, resample)
    if detected == "tfrecords":
        parts, irregular = tfrecord_files(path) if path.is_dir() else ([path], {})
        if irregular:
            if strict:
                raise next(iter(irregular.values()))
            warn_skipped(list(irregular.values()), len(parts) + len(irregular), "TFRecords")
        file = read_tfrecords(parts, size, fit, limit, resample)
    else:
        file = _OPEN[detected](path, limit)
    return ArraySource(file, size, fit, limit, resample)
