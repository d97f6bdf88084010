"""WAD files, against pictures that are packed here."""

import struct

import numpy as np
import pytest

from econ_pyro.data.readers.wad import WadFile
from econ_pyro.errors import EconError

RNG = np.random.default_rng(0)
PALETTE = RNG.integers(256, size=(256, 3), dtype=np.uint8)


def packed(index, opaque):
    """A picture of palette indices, in Doom's format: runs of opaque pixels in columns."""
    height, width = index.shape
    columns = []
    for x in range(width):
        column, y = b"", 0
        while y < height:
            if not opaque[y, x]:
                y += 1
                continue
            end = y
            while end < height and opaque[end, x]:
                end += 1
            column += bytes([y, end - y, 0]) + index[y:end, x].tobytes() + b"\0"
            y = end
        columns.append(column + b"\xff")
    head = struct.pack("<HHhh", width, height, 0, 0)
    starts = np.cumsum([len(head) + 4 * width, *map(len, columns)])[:-1]
    return head + struct.pack(f"<{width}I", *starts) + b"".join(columns)


def wad(lumps):
    """A file of named lumps."""
    data, directory = b"", b""
    for name, content in lumps:
        directory += struct.pack("<ii8s", 12 + len(data), len(content), name.encode())
        data += content
    return struct.pack("<4sii", b"IWAD", len(lumps), 12 + len(data)) + data + directory


def lumps(picture=b"", floor=b""):
    return [
        ("PLAYPAL", PALETTE.tobytes() * 14), ("TROOA1", b"not between the markers"),
        ("S_START", b""), ("TROOA1", picture), ("TROOB2B8", picture), ("TROOH0", picture),
        ("POSSA1", picture), ("S_END", b""), ("F_START", b""), ("F1_START", b""),
        ("FLOOR1", floor), ("SHORT", floor[:-1]), ("F_END", b""),
    ]  # fmt: skip


def test_pictures_are_those_that_were_packed(tmp_path):
    index, opaque = RNG.integers(256, size=(40, 23), dtype=np.uint8), RNG.random((40, 23)) < 0.7
    opaque[:, 5] = False
    floor = RNG.integers(256, size=(64, 64), dtype=np.uint8)
    (tmp_path / "a.wad").write_bytes(wad(lumps(packed(index, opaque), floor.tobytes())))
    file = WadFile(tmp_path / "a.wad")
    sprites = dict(file.sprites("TROO"))
    assert list(sprites) == ["TROOA1", "TROOB2B8"]
    for rgba in sprites.values():
        assert (rgba[..., 3] == 255 * opaque).all()
        assert (rgba[..., :3][opaque] == PALETTE[index][opaque]).all()
    [(name, pixels)] = file.floors()
    assert name == "FLOOR1" and (pixels == PALETTE[floor]).all()
    assert not list(file.sprites("SARG"))


def test_files_that_are_none(tmp_path):
    path, good = tmp_path / "a.wad", wad(lumps(packed(*np.ones((2, 4, 4), np.uint8))))
    for data in (b"", b"PK\3\4 something else", good[:-5], good.replace(b"FLOOR1", b"\xff" * 6)):
        path.write_bytes(data)
        with pytest.raises(EconError, match="expected a WAD file, got .*a.wad"):
            WadFile(path)
    path.write_bytes(wad(lumps()[1:]))
    with pytest.raises(EconError, match="with a palette, got .*a.wad, without one"):
        WadFile(path)
    path.write_bytes(wad([lumps()[0]]))
    assert not list(WadFile(path).sprites("TROO")) and not list(WadFile(path).floors())


@pytest.mark.parametrize("picture", [
    b"", packed(*np.ones((2, 4, 4), np.uint8))[:-3], struct.pack("<HHhh", 9999, 2, 0, 0),
    struct.pack("<HHhhI", 1, 2, 0, 0, 10**6),
    packed(*np.ones((2, 4, 4), np.uint8)).replace(b"\0\4\0", b"\3\4\0"),  # beyond the last row
    struct.pack("<HHhhI", 1, 2, 0, 0, 12) + bytes([0, 1, 0, 7, 0] * 9 + [0xFF]),  # no lower run
])  # fmt: skip
def test_damaged_pictures_are_named(tmp_path, picture):
    (tmp_path / "a.wad").write_bytes(wad(lumps(picture)))
    with pytest.raises(EconError, match="a readable sprite, got TROOA1 of .*a.wad, damaged"):
        list(WadFile(tmp_path / "a.wad").sprites("TROO"))
