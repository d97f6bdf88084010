"""Image sizes read from headers, before anything is decoded or allocated.

Pillow applies its limits after opening a file, and opening a WebP file allocates two whole
canvases. A file of a few bytes can thus demand gigabytes, or minutes.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image

from econ_pyro.data.images import FORMATS, MAX_SCANS, count_scans, webp_size
from econ_pyro.errors import EconError

MAX_PIXELS = 50_000_000
"""Maximum pixels of an untrusted image: enough for phone cameras, 0.2 GB when decoded."""


def check_size(data: bytes, name: str) -> None:
    """Check the size in an image's header. Unreadable headers pass; decoding reports the reason.

    Args:
        data: the whole file.
        name: name of the file, for the error message.

    Raises:
        EconError: the image has more than ``MAX_PIXELS`` pixels or ``MAX_SCANS`` JPEG scans.
    """
    try:
        width, height = pixel_size(data)
        size = f"{width:,} x {height:,}" if width * height > MAX_PIXELS else ""
    except Image.DecompressionBombError:  # Pillow does not say how large the image is
        size = "many times as many"
    if size:
        raise EconError(
            f"an image of at most {MAX_PIXELS:,} pixels",
            f"{name} with {size}",
            "scale it down first",
        )
    if (scans := count_scans(io.BytesIO(data))) > MAX_SCANS:
        raise EconError(
            f"a JPEG file of at most {MAX_SCANS} scans", f"{name} of {scans:,}", "re-encode it"
        )


def pixel_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels that a PNG, JPEG, GIF or WebP file declares.

    Args:
        data: the whole file.

    Returns:
        Width and height; 0, 0 if the header cannot be read.

    Raises:
        Image.DecompressionBombError: the image exceeds Pillow's limit.
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
    except Exception:  # Pillow's decoders raise any exception, and do so again when decoding
        return 0, 0
