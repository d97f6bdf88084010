"""Arrays of images and masks, whatever file they lie in.

==========  =====================================================  ==============================
array       shape                                                  values
==========  =====================================================  ==============================
image       (n, H, W), (n, H, W, C) or (n, C, H, W), C = 1, 3, 4   see array_values
mask        (n, H, W) or (n, H, W, 1): numbers of objects          0 is the background
mask        (n, N, H, W) or (n, N, H, W, 1): visible parts         0 and 1, or 0 and 255
amodal      (n, N, H, W) or (n, N, H, W, 1): whole objects         0 and 1, or 0 and 255
label       (n, N) or (n, N, 1): class of each object              integers; -1 is no object
visibility  (n, N) or (n, N, 1): which objects there are           0 and 1
classes     (C,): names of classes                                 text
==========  =====================================================  ==============================

If visible parts together cover every pixel, the first is the background. Number v of a mask is
column v of ``label`` and ``amodal`` where there is a ``visibility`` (as object-centric-library
and multi_object_datasets write it: the background has a column too), else column v - 1.

Whole objects alone are taken to lie front to back. With visible parts beside them the order is
what they show: whoever is seen where another's mask is, is in front of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from econ_pyro.errors import EconError

MOST_ROW = 512 << 20
"""Bytes of the largest row (an image, or the masks of one) that is read."""
_AT_ONCE = 64 << 20  # bytes of rows that are looked at together
_MOST_AT_ONCE = 256


class Rows(Protocol):
    """An array that may lie on disk: of numpy or of h5py."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of rows, and what a row is."""

    @property
    def dtype(self) -> Any:
        """Type of the values."""

    def __getitem__(self, index: Any) -> Any:
        """Rows, by a slice or by ascending numbers."""


@dataclass(frozen=True)
class Arrays:
    """What a file holds."""

    path: Path
    kind: str
    """What the file is, for people."""
    kept: str
    """What of it is kept, and where."""
    rows: Mapping[str, Rows]
    """Arrays by the names above."""
    background: int | None = None
    """Numbers of masks, from 0, that are background; told from the masks if None."""
    rooms: bool = False
    """Whether some scenes have one number of background fewer
    (:mod:`econ_pyro.data.readers.objects_room`)."""
    native: tuple[int, int] | None = None
    """Width and height before anything was resized, if something was."""
    sequential: bool = False
    """Whether neighbours are alike, as frames of a video are."""
    more: bool = False
    """Whether images were left out."""


def row_bytes(rows: Rows) -> int:
    """Bytes of one row."""
    return math.prod(rows.shape[1:]) * int(rows.dtype.itemsize)


def rows_at_once(rows: Rows) -> int:
    """How many rows can be held together without a thought."""
    return max(1, min(_MOST_AT_ONCE, _AT_ONCE // max(1, row_bytes(rows))))


def check_rows(path: Path, rows: Mapping[str, Rows]) -> None:
    """Check that all arrays but ``classes`` have a row for each image, of a size to be read.

    Raises:
        EconError: one has not.
    """
    n = rows["image"].shape[:1]
    for name, array in rows.items():
        if name == "classes":
            continue
        if not array.shape or array.shape[:1] != n:
            many = f"{n[0]} rows of {name}" if n else "rows of image"
            raise EconError(f"{many} in {path}, as of image", str(tuple(array.shape)))
        if (large := row_bytes(array)) > MOST_ROW:
            raise EconError(
                f"rows of {name} of at most {MOST_ROW:,} bytes in {path}", f"{large:,}",
                "make the images smaller",
            )  # fmt: skip


def take(rows: Rows, indices: np.ndarray) -> np.ndarray:
    """Rows by number; h5py wants the numbers ascending and each once."""
    ascending, back = np.unique(indices, return_inverse=True)
    return np.asarray(rows[ascending])[back]
