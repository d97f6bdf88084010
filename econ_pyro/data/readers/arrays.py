"""Arrays of images and masks, independent of the file format.

==========  =====================================================  ==============================
array       shape                                                  values
==========  =====================================================  ==============================
image       (n, H, W), (n, H, W, C) or (n, C, H, W), C = 1, 3, 4   see array_values
mask        (n, H, W) or (n, H, W, 1): index map of objects        0 is the background
mask        (n, N, H, W) or (n, N, H, W, 1): visible masks         0 and 1, or 0 and 255
amodal      (n, N, H, W) or (n, N, H, W, 1): amodal masks          0 and 1, or 0 and 255
label       (n, N) or (n, N, 1): class of each object              integers; -1 is no object
visibility  (n, N) or (n, N, 1): whether each object is present    0 and 1
classes     (C,): names of classes                                 text
==========  =====================================================  ==============================

If the visible masks cover every pixel, the first is the background. Index v of an index map is
column v of ``label`` and ``amodal`` if there is a ``visibility`` array (object-centric-library and
multi_object_datasets give the background a column too), otherwise column v - 1.

Amodal masks without visible masks are in depth order, front to back. With visible masks, the order
follows from the occlusions: object i is in front of object j if i is visible inside the amodal
mask of j.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from econ_pyro.errors import EconError

MAX_ROW = 512 << 20
"""Maximum size of a row (an image, or the masks of an image) in bytes."""
_CHUNK_BYTES = 64 << 20  # bytes of rows processed at a time
_CHUNK_ROWS = 256


class LazyArray(Protocol):
    """A NumPy array, memory map or h5py dataset; a row is an element of the first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""

    @property
    def dtype(self) -> Any:
        """Type of the values."""

    def __getitem__(self, index: Any) -> Any:
        """Rows, by a slice or by ascending indices."""


@dataclass(frozen=True)
class ArrayFile:
    """Arrays of a file."""

    path: Path
    kind: str
    """Kind of the file, for reports."""
    storage: str
    """What is kept of the data, and where."""
    arrays: Mapping[str, LazyArray]
    """The arrays, by the names above."""
    background: int | None = None
    """Number of mask indices, from 0, that are background; None: infer it from the masks."""
    objects_room: bool = False
    """Whether some scenes have one background index fewer
    (:mod:`econ_pyro.data.readers.objects_room`)."""
    original_size: tuple[int, int] | None = None
    """Width and height before resizing; None: not resized."""
    sequential: bool = False
    """Whether consecutive images are similar, as in a video."""
    truncated: bool = False
    """Whether images were excluded."""


def row_bytes(array: LazyArray) -> int:
    """Size of a row in bytes."""
    return math.prod(array.shape[1:]) * int(array.dtype.itemsize)


def chunk_rows(array: LazyArray) -> int:
    """Number of rows to process at a time."""
    return max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(1, row_bytes(array))))


def check_arrays(path: Path, arrays: Mapping[str, LazyArray]) -> None:
    """Check that all arrays but ``classes`` have one row per image, of at most ``MAX_ROW`` bytes.

    Raises:
        EconError: an array has another number of rows, or its rows are too large.
    """
    n = arrays["image"].shape[:1]
    for name, array in arrays.items():
        if name == "classes":
            continue
        if not array.shape or array.shape[:1] != n:
            many = f"{n[0]} rows of {name}" if n else "rows of image"
            raise EconError(f"{many} in {path}, as of image", str(tuple(array.shape)))
        if (large := row_bytes(array)) > MAX_ROW:
            raise EconError(
                f"rows of {name} of at most {MAX_ROW:,} bytes in {path}", f"{large:,}",
                "make the images smaller",
            )  # fmt: skip


def take_rows(array: LazyArray, indices: np.ndarray) -> np.ndarray:
    """Rows at any indices; h5py itself requires ascending, distinct indices."""
    ascending, inverse = np.unique(indices, return_inverse=True)
    return np.asarray(array[ascending])[inverse]
