"""NumPy files as arrays, by the names that others give them; scenes as such a file."""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from econ_pyro.data.readers.arrays import Arrays, Rows, check_rows
from econ_pyro.data.readers.disk_array import unpack
from econ_pyro.data.source_info import LIMIT
from econ_pyro.data.synthetic.renderer import Scenes
from econ_pyro.errors import EconError
from econ_pyro.files.npy import Header, map_npy, read_header
from econ_pyro.files.storage import write_atomically
from econ_pyro.files.untrusted import MOST_UNPACKED, first_line, open_regular

NAMES = {
    "image": ("image", "images"),
    "mask": ("mask", "masks", "segmentation"),
    "amodal": ("amodal", "amodal_mask", "amodal_masks"),
    "label": ("label", "labels", "shape"),
    "visibility": ("visibility",),
    "classes": ("classes",),
}
"""What an array may be called."""


def open_npy(path: Path, limit: int = LIMIT) -> Arrays:
    """Images alone, mapped from a .npy file.

    Args:
        path: the file.
        limit: not needed, as nothing is read here.

    Raises:
        EconError: it is damaged, or holds Python objects.
    """
    images = map_npy(path, "a readable .npy file")
    return Arrays(path, "a NumPy array", "nothing: images are read when needed", {"image": images})


def open_npz(path: Path, limit: int = LIMIT) -> Arrays:
    """Images and ground truth in a .npz archive, unpacked into a temporary file.

    Args:
        path: the file.
        limit: most images to unpack, the first ones.

    Raises:
        EconError: it is damaged, holds Python objects, has no images, or is too much.
    """
    expected = "a readable .npz archive"
    with open_regular(path, expected) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                rows, n = _unpacked(archive, path, limit)
        except EconError:
            raise
        except Exception as error:  # zipfile raises many things, of many packages
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise EconError(expected, f"{path} ({first_line(error)})", "copy it again") from error
    kept = "its arrays as they are, in a temporary file"
    return Arrays(path, "a NumPy archive", kept, rows, more=n > limit)


def _unpacked(archive: zipfile.ZipFile, path: Path, limit: int) -> tuple[dict[str, Rows], int]:
    """Arrays of as many rows as are wanted, and how many there are."""
    expected = "a readable .npz archive"
    members = {i.filename[:-4]: i for i in archive.infolist() if i.filename.endswith(".npy")}
    found = {name: members[own] for name, own in find_names(path, list(members)).items()}
    headers: dict[str, Header] = {}
    for name, info in found.items():
        # what others pack with may ask for gigabytes before a byte is unpacked
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise EconError(expected, f"{path}, packed with method {info.compress_type}",
                            "write it with numpy.savez_compressed")  # fmt: skip
        with archive.open(info) as part:
            where = f"{info.filename} in {path}"
            headers[name] = read_header(part, info.file_size, expected, where)
    check_rows(path, headers)
    wanted = {
        # the first rows lie together unless the last axis is outermost
        name: h.shape if name == "classes" or h.fortran else (min(limit, h.shape[0]), *h.shape[1:])
        for name, h in headers.items()
    }
    total = sum(math.prod(shape) * headers[name].dtype.itemsize for name, shape in wanted.items())
    if total > MOST_UNPACKED:
        raise EconError(
            f"arrays of at most {MOST_UNPACKED:,} bytes when unpacked", f"{path} of {total:,}",
            "take fewer with --limit, or save the images alone as .npy, which is not unpacked",
        )  # fmt: skip
    rows: dict[str, Rows] = {}
    for name, shape in wanted.items():
        header = headers[name]
        with archive.open(found[name]) as part:
            part.read(header.start)
            unpacked = unpack(part, shape, header.dtype, header.fortran)
        rows[name] = unpacked if name == "classes" else unpacked[:limit]
    return rows, headers["image"].shape[0]


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


def find_names(path: Path, stored: list[str]) -> dict[str, str]:
    """Names of arrays in a file by the names that we give them.

    Raises:
        EconError: none of them can be the images.
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
            _shown(stored) or "no arrays",
            f"names that are known: {', '.join(n for names in NAMES.values() for n in names)}",
        )
    return found


def _shown(names: list[str]) -> str:
    return ", ".join(repr(n)[1:-1][:40] for n in sorted(names)[:20]) + ", ..." * (len(names) > 20)
