"""Sprites and floor textures of WAD files, the archives of Doom and Freedoom.

A WAD file is a directory of named lumps. Pictures are stored by columns, each a list of runs of
opaque pixels; floor textures are 64 x 64 pixels row by row. Both index the palette of the lump
PLAYPAL. The name of a sprite has four letters for the thing, one for the frame and a digit for the
side from which it is seen, 1 to 8, or 0 if it looks alike from all sides; then maybe a second
frame and side, for which the picture is mirrored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from econ_pyro.errors import EconError

FLOOR = 64
"""Height and width of a floor texture."""
_MOST_LUMPS = 1 << 16
_MOST_PIXELS = 1024  # per side of a picture


class WadFile:
    """Pictures of a WAD file.

    Args:
        path: the file.

    Raises:
        EconError: the file is not a WAD file with a palette.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._data = path, path.read_bytes()
        try:
            magic, number, start = struct.unpack_from("<4sii", self._data)
            if magic not in (b"IWAD", b"PWAD") or not 0 <= number <= _MOST_LUMPS:
                raise ValueError
            entries = [struct.unpack_from("<ii8s", self._data, start + 16 * i)
                       for i in range(number)]  # fmt: skip
            names = [name.split(b"\0")[0].decode("ascii") for _, _, name in entries]
        except (struct.error, ValueError) as error:
            raise EconError("a WAD file", str(path)) from error
        self._lumps = [
            (name, at, size) for name, (at, size, _) in zip(names, entries, strict=True)
        ]
        palettes = [lump for lump in self._lumps if lump[0] == "PLAYPAL"]
        if not palettes or len(self._bytes(palettes[0])) < 768:
            raise EconError("a WAD file with a palette", f"{path}, without one")
        self._palette = np.frombuffer(self._bytes(palettes[0])[:768], np.uint8).reshape(256, 3)

    def sprites(self, thing: str) -> Iterator[tuple[str, np.ndarray]]:
        """Names and pictures, ``(H, W, 4)`` uint8, of a thing from all its sides.

        Pictures that look alike from all sides, as those of fallen creatures, are left out.

        Raises:
            EconError: a picture is damaged.
        """
        for lump in self._between("S_START", "S_END"):
            name = lump[0]
            if len(name) >= 6 and name[:4] == thing and name[5] != "0":
                yield name, self._picture(lump)

    def floors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and pictures, ``(64, 64, 3)`` uint8, of the floor textures."""
        for lump in self._between("F_START", "F_END"):
            if lump[2] == FLOOR**2:
                index = np.frombuffer(self._bytes(lump), np.uint8)
                yield lump[0], self._palette[index].reshape(FLOOR, FLOOR, 3)

    def _between(self, first: str, last: str) -> list[tuple[str, int, int]]:
        names = [name for name, _, _ in self._lumps]
        if first not in names or last not in names:
            return []
        return self._lumps[names.index(first) + 1 : names.index(last)]

    def _bytes(self, lump: tuple[str, int, int]) -> bytes:
        _, at, size = lump
        return self._data[at : at + size] if at >= 0 and size >= 0 else b""

    def _picture(self, lump: tuple[str, int, int]) -> np.ndarray:
        data = self._bytes(lump)
        try:
            width, height = struct.unpack_from("<HH", data)
            if not 0 < width <= _MOST_PIXELS or not 0 < height <= _MOST_PIXELS:
                raise ValueError
            out = np.zeros((height, width, 4), np.uint8)
            for x, at in enumerate(struct.unpack_from(f"<{width}I", data, 8)):
                last = -1
                while data[at] != 0xFF:  # one run of pixels: top, length, pad, pixels, pad
                    top, length = data[at], data[at + 1]
                    if top <= last:  # later runs are lower, so there are at most 255
                        raise ValueError
                    last = top
                    run = np.frombuffer(data[at + 3 : at + 3 + length], np.uint8)
                    out[top : top + length, x, :3] = self._palette[run]
                    out[top : top + length, x, 3] = 255
                    at += length + 4
        except (struct.error, ValueError, IndexError) as error:
            raise EconError("a readable sprite", f"{lump[0]} of {self._path}, damaged") from error
        return out
