"""Reading and writing images and ground truth in .npy and .npz files."""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from econ_pyro.data.base import DEFAULT_LIMIT
from econ_pyro.data.readers.arrays import ArrayFile, LazyArray, check_arrays
from econ_pyro.data.readers.disk_array import extract_array
from econ_pyro.data.synthetic.renderer import Scenes
from econ_pyro.errors import EconError
from econ_pyro.files.npy import Header, map_npy, read_header
from econ_pyro.files.storage import write_atomically
from econ_pyro.files.untrusted import MAX_UNPACKED, first_line, open_regular

NAMES = {
    "image": ("image", "images"),
    "mask": ("mask", "masks", "segmentation"),
    "amodal": ("amodal", "amodal_mask", "amodal_masks"),
    "label": ("label", "labels", "shape"),
    "visibility": ("visibility",),
    "classes": ("classes",),
}
"""Accepted names of each array."""


def open_npy(path: Path, limit: int = DEFAULT_LIMIT) -> ArrayFile:
    """Map the images of a .npy file.

    Args:
        path: the file.
        limit: unused, as images are read on demand.

    Raises:
        EconError: the file is damaged or contains Python objects.
    """
    images = map_npy(path, "a readable .npy file")
    kept = "nothing: images are read when needed"
    return ArrayFile(path, "a NumPy array", kept, {"image": images})


def open_npz(path: Path, limit: int = DEFAULT_LIMIT) -> ArrayFile:
    """Extract images and ground truth of a .npz archive to temporary files.

    Args:
        path: the file.
        limit: maximum number of images to extract.

    Raises:
        EconError: the file is damaged, contains Python objects, has no images, or is too large.
    """
    expected = "a readable .npz archive"
    with open_regular(path, expected) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                arrays, n = _extract(archive, path, limit)
        except EconError:
            raise
        except Exception as error:  # zipfile raises exceptions of many modules
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise EconError(expected, f"{path} ({first_line(error)})", "copy it again") from error
    kept = "its arrays as they are, in a temporary file"
    return ArrayFile(path, "a NumPy archive", kept, arrays, truncated=n > limit)


def _extract(archive: zipfile.ZipFile, path: Path, limit: int) -> tuple[dict[str, LazyArray], int]:
    """The first ``limit`` rows of each array, and the number of images in the archive."""
    expected = "a readable .npz archive"
    members = {i.filename[:-4]: i for i in archive.infolist() if i.filename.endswith(".npy")}
    found = {name: members[own] for name, own in find_names(path, list(members)).items()}
    headers: dict[str, Header] = {}
    for name, info in found.items():
        # other methods may allocate gigabytes before the first byte is decompressed
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EconError(expected, f"{path}, packed with method {info.compress_type}",
                            "write it with numpy.savez_compressed")  # fmt: skip
        with archive.open(info) as part:
            where = f"{info.filename} in {path}"
            headers[name] = read_header(part, info.file_size, expected, where)
    check_arrays(path, headers)
    shapes = {
        # in Fortran order, the first rows are not contiguous
        name: h.shape if name == "classes" or h.fortran else (min(limit, h.shape[0]), *h.shape[1:])
        for name, h in headers.items()
    }
    total = sum(math.prod(shape) * headers[name].dtype.itemsize for name, shape in shapes.items())
    if total > MAX_UNPACKED:
        raise EconError(
            f"arrays of at most {MAX_UNPACKED:,} bytes when extracted", f"{path} of {total:,}",
            "take fewer with --limit, or save the images alone as .npy, which is not extracted",
        )  # fmt: skip
    arrays: dict[str, LazyArray] = {}
    for name, shape in shapes.items():
        header = headers[name]
        with archive.open(found[name]) as part:
            part.read(header.start)
            array = extract_array(part, shape, header.dtype, header.fortran)
        arrays[name] = array if name == "classes" else array[:limit]
    return arrays, headers["image"].shape[0]


def save_npz(path: Path | str, scenes: Scenes, classes: Sequence[str]) -> None:
    """Write scenes with ground truth as an archive that :func:`open_npz` reads.

    Args:
        path: the file, .npz.
        scenes: the scenes; images are written with 8 bits per channel.
        classes: names of the classes, by label.

    Raises:
        EconError: the suffix is not .npz, there are no objects, or a class has no name.
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
    tensors = {
        "image": (scenes.image.permute(0, 2, 3, 1) * 255).round().byte(),
        "mask": (scenes.region * number).sum(1, dtype=torch.int16),
        "amodal": scenes.mask,
        "label": scenes.label,
    }
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays["classes"] = np.array(list(classes))
    write_atomically(path, lambda p: np.savez_compressed(p, **arrays))


def find_names(path: Path, stored: list[str]) -> dict[str, str]:
    """Map the names of :data:`NAMES` to the names of the arrays in a file.

    Raises:
        EconError: no array can be the images.
    """
    found = {
        name: own for name, names in NAMES.items() if (own := next(
            (n for n in names if n in stored), None))
    }  # fmt: skip
    if "image" not in found and len(stored) == 1:
        found["image"] = stored[0]
    if "image" not in found:
        raise EconError(
            f"an array called image in {path}",
            _join(stored) or "no arrays",
            f"names that are known: {', '.join(n for names in NAMES.values() for n in names)}",
        )
    return found


def _join(names: list[str]) -> str:
    return ", ".join(repr(n)[1:-1][:40] for n in sorted(names)[:20]) + ", ..." * (len(names) > 20)
