"""How large a picture says it is, before anything of it is decoded or made room for.

Pillow's own limits come after it has opened a file, and for WebP, opening makes room for two whole
canvases. A few bytes can ask for gigabytes so, or for minutes.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image

from econ_pyro.data.images import FORMATS, MOST_SCANS, count_scans, webp_size
from econ_pyro.errors import EconError

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
    if (scans := count_scans(io.BytesIO(data))) > MOST_SCANS:
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
        return webp_size(io.BytesIO(data))
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
