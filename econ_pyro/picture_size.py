"""How large a picture says it is, before anything of it is decoded or made room for.

Pillow's own limits come after it has opened a file, and for WebP, opening makes room for two whole
canvases. A few bytes can ask for gigabytes so, or for minutes.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image

from econ_pyro.errors import EconError
from econ_pyro.images import FORMATS, MOST_SCANS

MOST_PIXELS = 50_000_000
"""Pixels of a picture from somebody else: what phones take, and 0.2 GB when decoded."""


def check_size(data: bytes, name: str) -> None:
    """Check what a picture's header says. One that cannot be read passes: decoding says why.

    Args:
        data: all of the file.
        name: of the file, for the error message.

    Raises:
        EconError: it has more than ``MOST_PIXELS`` pixels, or more passes than ``MOST_SCANS``.
    """
    try:
        width, height = pixel_size(data)
        size = f"{width:,} x {height:,}" if width * height > MOST_PIXELS else ""
    except Image.DecompressionBombError:  # Pillow does not even say how large
        size = "many times as many"
    if size:
        raise EconError(
            f"an image of at most {MOST_PIXELS:,} pixels",
            f"{name} with {size}",
            "scale it down first",
        )
    if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MOST_SCANS:
        raise EconError(
            f"a JPEG file of at most {MOST_SCANS} scans", f"{name} of {scans:,}", "save it anew"
        )


def pixel_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas that a PNG, JPEG, GIF or WebP file declares.

    Args:
        data: all of the file.

    Returns:
        Both in pixels; 0, 0 if it is no such file.

    Raises:
        Image.DecompressionBombError: Pillow finds it too large to be true.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    formats = [name for name in FORMATS if name != "WEBP"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as header:  # reads no pixels yet
                return header.size
    except Image.DecompressionBombError:
        raise
    except Exception:  # Pillow raises whatever it stumbles on, and will again
        return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    """Of the first chunk: an extended file's canvas, or a bare picture, without loss or with."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return 0, 0
    if kind == b"VP8X":  # 24 bits each, less 1
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":  # 14 bits each, less 1, after a byte of signature
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":  # 14 bits each and 2 of scale, after the frame's tag and its start code
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        return width, height
    return 0, 0
