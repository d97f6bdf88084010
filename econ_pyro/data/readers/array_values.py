"""Conversion of image arrays to uint8, with checks of the value range.

===================  ===================================================================
type                 values
===================  ===================================================================
bool                 black and white
uint8                0 to 255
uint16               0 to 65535; an error if none is above 255, as these are 8-bit values
other integers       0 to 255
floats               0 to 1, with a tolerance of half an 8-bit level
===================  ===================================================================

Any byte order is accepted. Integers wider than 8 bits with values 0 and 1 alone are an error, as
the images would be black.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from econ_pyro.data.readers.arrays import LazyArray, chunk_rows, row_bytes, take_rows
from econ_pyro.errors import EconError
from econ_pyro.files.npy import release_pages

SLACK = 0.5 / 255
"""Tolerance of the range [0, 1]: half an 8-bit level."""
MAX_CHECKED = 1 << 30
"""Bytes of images that are checked on opening; further images are checked when they are read."""
_SAMPLE = 32  # images, evenly spread, that are checked first for the scale of values


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Convert images of any type to uint8, 0 to 255."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind in "fb":
        levels = np.rint(values.astype(np.float64) * 255).clip(0, 255)
    elif (kind, size) == ("u", 2):
        levels = (values.astype(np.uint32) + 128) // 257
    else:
        levels = values
    return np.ascontiguousarray(levels, np.uint8)


class CheckedImages:
    """Images with checked values: the first ``MAX_CHECKED`` bytes on opening, the rest when read.

    Args:
        path: path of the file, for error messages.
        image: the images.
        n: number of images that are used.

    Raises:
        EconError: values are outside the range of their type, or use only its lowest part.
    """

    def __init__(self, path: Path, image: LazyArray, n: int) -> None:
        self._path, self._image = path, image
        kind, size = image.dtype.kind, image.dtype.itemsize
        self._always_valid = kind == "b" or (kind == "u" and size <= 2)
        self._top, self._range = (1, "[0, 1]") if kind == "f" else (255, "0 to 255")
        self._checked = n
        if not self._always_valid:
            self._checked = min(n, max(1, MAX_CHECKED // max(1, row_bytes(image))))
            for numbers, part in self._chunks(self._checked):
                self._check(numbers, part)
        if kind in "ui" and size > 1:
            self._check_scale(n, 255 if (kind, size) == ("u", 2) else 1)

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Images at indices ``numbers``.

        Raises:
            EconError: values of images that were not checked on opening are out of range.
        """
        part = take_rows(self._image, numbers)
        if not self._always_valid and len(numbers) and numbers.max() >= self._checked:
            self._check(numbers, part)
        return part

    def _chunks(self, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        step = chunk_rows(self._image)
        for start in range(0, n, step):
            stop = min(n, start + step)
            yield np.arange(start, stop), np.asarray(self._image[start:stop])
            release_pages(self._image)

    def _check(self, numbers: np.ndarray, part: np.ndarray) -> None:
        flat = part.reshape(len(part), -1)
        slack = SLACK if self._top == 1 else 0
        bad = ~((flat >= -slack) & (flat <= self._top + slack)).all(1)  # true for NaN
        if not bad.any():
            return
        i = int(bad.argmax())
        low, high = flat[i].min(), flat[i].max()
        got, hint = f"{low:g} to {high:g} in image {numbers[i]}", self._hint(low, high)
        if np.isnan(low):
            got, hint = f"NaN in image {numbers[i]}", "leave that image out"
        raise EconError(
            f"{part.dtype.name} images with values in {self._range} in {self._path}", got, hint
        )

    def _hint(self, low: float, high: float) -> str:
        floats = self._top == 1
        if low >= -SLACK and high <= 65535:
            if not floats:
                return "save 16 bits as uint16"
            return "divide by 255" if high <= 255 else "divide by 65535"
        if floats and low >= -1 and high <= 1 + SLACK:
            return "add 1 and halve, if the range is -1 to 1; else clip them"
        if not floats and -128 <= low and high <= 127:
            return "add 128 and save them as uint8, if the range is -128 to 127"
        return "bring them to that range, or leave that image out"

    def _check_scale(self, n: int, most: int) -> None:
        """Reject integers that use only the lowest part of their range and would look black."""
        sample = np.unique(np.arange(_SAMPLE) * n // _SAMPLE)[: chunk_rows(self._image)]
        highest = int(take_rows(self._image, sample).max())
        if highest <= most:
            budget = max(1, MAX_CHECKED // max(1, row_bytes(self._image)))
            for _, part in self._chunks(min(n, budget)):
                highest = max(highest, int(part.max()))
                if highest > most:
                    return
        if highest == 1:
            raise EconError(
                f"images with values in 0 to 255 in {self._path}",
                "0 and 1 alone", "save them as bool, or multiply by 255",
            )  # fmt: skip
        if most == 255 and 0 < highest <= most:
            raise EconError(
                f"16-bit images with values in 0 to 65535 in {self._path}",
                f"none above {highest}", "if they are 8 bits, save them as uint8",
            )  # fmt: skip
