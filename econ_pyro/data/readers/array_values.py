"""Values of images in arrays as grey levels of 0 to 255, or an error that says what is wrong.

===================  ===================================================================
type                 values
===================  ===================================================================
bool                 off and on
uint8                0 to 255
uint16               0 to 65535; none above 255 is an error, as they are then 8 bits
other integers       0 to 255
floats               0 to 1, and outside by what rounds to 0 and 1 in 8 bits
===================  ===================================================================

The order of the bytes does not matter. Integers wider than a byte that are 0 and 1 alone are an
error, as the images would be black.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from econ_pyro.data.readers.arrays import Rows, row_bytes, rows_at_once, take
from econ_pyro.errors import EconError
from econ_pyro.files.npy import forget

SLACK = 0.5 / 255
"""How far outside [0, 1] a float may lie: less than changes a grey level."""
LOOKED_AT = 1 << 30
"""Bytes of images whose values are checked before anything else; the rest is, when it is read."""
_SPREAD = 32  # images at which scales are told first


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Grey levels of 0 to 255, as uint8, from whatever type they were stored in."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind in "fb":
        levels = np.rint(values.astype(np.float64) * 255).clip(0, 255)
    elif (kind, size) == ("u", 2):
        levels = (values.astype(np.uint32) + 128) // 257
    else:
        levels = values
    return np.ascontiguousarray(levels, np.uint8)


class Checked:
    """Images whose values are checked, as many as are sensible at once and the rest when read.

    Args:
        path: where they are, for error messages.
        image: the images.
        n: how many of them are used.

    Raises:
        EconError: some values are outside of their type's range, or none is where most should be.
    """

    def __init__(self, path: Path, image: Rows, n: int) -> None:
        self._path, self._image = path, image
        kind, size = image.dtype.kind, image.dtype.itemsize
        self._sure = kind == "b" or (kind == "u" and size <= 2)
        self._top, self._range = (1, "[0, 1]") if kind == "f" else (255, "0 to 255")
        self._seen = n
        if not self._sure:
            self._seen = min(n, max(1, LOOKED_AT // max(1, row_bytes(image))))
            for numbers, part in self._parts(self._seen):
                self._check(numbers, part)
        if kind in "ui" and size > 1:
            self._check_scale(n, 255 if (kind, size) == ("u", 2) else 1)

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Images by number.

        Raises:
            EconError: their values are wrong, and nobody had looked at them yet.
        """
        part = take(self._image, numbers)
        if not self._sure and len(numbers) and numbers.max() >= self._seen:
            self._check(numbers, part)
        return part

    def _parts(self, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        step = rows_at_once(self._image)
        for start in range(0, n, step):
            stop = min(n, start + step)
            yield np.arange(start, stop), np.asarray(self._image[start:stop])
            forget(self._image)

    def _check(self, numbers: np.ndarray, part: np.ndarray) -> None:
        flat = part.reshape(len(part), -1)
        slack = SLACK if self._top == 1 else 0
        bad = ~((flat >= -slack) & (flat <= self._top + slack)).all(1)  # also where there is a NaN
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
        """Integers that use no more than the lowest part of their range would be black."""
        spread = np.unique(np.arange(_SPREAD) * n // _SPREAD)[: rows_at_once(self._image)]
        highest = int(take(self._image, spread).max())
        if highest <= most:
            budget = max(1, LOOKED_AT // max(1, row_bytes(self._image)))
            for _, part in self._parts(min(n, budget)):
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
