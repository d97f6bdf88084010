r"""Conversion of PNG files with 2, 4 or 16 bits per channel to 8 bits.

Pillow has no 16-bit mode with several channels. It keeps the upper byte, which darkens images by
half a grey level, and compares that byte with the 16-bit transparent colour. Here, a file is
decoded twice, once for the upper bytes and once for the lower bytes, and rounded to 8 bits:

.. math:: \lfloor (v + 128) / 257 \rfloor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

_LOWER = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}  # swapped byte order: the lower byte
_GREY_ALPHA = "LA;16B"
_GREY = "I;16B"
_SCALES = {"L;2": 85, "L;4": 17}
_STRIP = 1 << 20  # pixels converted at a time


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image to 8 bits per channel.

    Args:
        image: opened but not decoded, in any format.

    Returns:
        A converted image for a still PNG with 16 bits per channel, otherwise ``image`` itself.
    """
    raw = _raw(image)
    key = image.info.get("transparency")
    if raw in _SCALES and isinstance(key, int):
        image.info["transparency"] = key * _SCALES[raw]  # Pillow scales the pixels, not the key
    if raw not in (*_LOWER, _GREY_ALPHA, _GREY) or getattr(image, "is_animated", False):
        return image
    if raw == _GREY_ALPHA:  # two channels of two bytes, decoded as four of one byte
        _decode_as(image, "RGBA")
        parts: tuple[Image.Image, ...] = (image,)
    elif raw == _GREY:
        parts = (image,)
    else:
        file: Any = image.fp  # type: ignore[attr-defined]
        at = file.tell()
        file.seek(0)
        parts = (image, Image.open(file, formats=("PNG",)))
        _decode_as(parts[1], _LOWER[raw])
        parts[1].load()
        file.seek(at)
    for part in parts:
        part.load()
    rows = max(1, _STRIP // image.width)
    whole: np.ndarray | None = None
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(image.height, top + rows))
        values = [np.asarray(part.crop(box)) for part in parts]
        strip = _rounded(raw, values, key)
        if whole is None:
            whole = np.empty((image.height, *strip.shape[1:]), np.uint8)
        whole[top : top + len(strip)] = strip
    del parts, part
    assert whole is not None
    out = Image.fromarray(whole)
    out.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return out


def _raw(image: Image.Image) -> str:
    """Pillow's name for the pixel layout of the file."""
    tile = getattr(image, "tile", None)
    args = tile[0][3] if tile and image.format == "PNG" else ""
    return args if isinstance(args, str) else ""


def _decode_as(image: Any, raw: str) -> None:
    codec, extents, offset, _ = image.tile[0]
    image.tile = [type(image.tile[0])(codec, extents, offset, raw)]


def _rounded(raw: str, parts: list[np.ndarray], key: Any) -> np.ndarray:
    """Round to 8 bits per channel, alpha last; ``(H, W)`` for grey without alpha."""
    if raw == _GREY:
        values = parts[0].astype(np.uint16)[..., None]
    elif raw == _GREY_ALPHA:
        high, low = parts[0][..., 0::2], parts[0][..., 1::2]
        values = high.astype(np.uint16) << 8 | low
    else:
        values = parts[0].astype(np.uint16) << 8 | parts[1]
    levels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if key is not None and raw in (_GREY, "RGB;16B"):
        clear = (values == np.asarray(key, np.uint16)).all(-1, keepdims=True)
        levels = np.concatenate([levels, np.where(clear, 0, 255).astype(np.uint8)], -1)
    return levels[..., 0] if levels.shape[-1] == 1 else levels
