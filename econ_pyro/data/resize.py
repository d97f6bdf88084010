"""Images of another size: square, by nearest pixels or by means over areas."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["crop", "resize"]
"""How an image is made square: ``crop`` keeps the centre, ``resize`` stretches."""
Resample = Literal["auto", "nearest", "area"]
"""How pixels of another size are made: ``nearest`` takes them as they are, ``area`` takes means;
``auto`` is ``nearest`` for images of few colours with hard edges, whose means would be colours of
no object, and ``area`` for others."""
MAX_COLOURS = 32
"""Maximum number of colours of an image that ``auto`` resizes by nearest neighbours."""
_MIN_EQUAL = 0.5  # share of equal neighbours; dithered images have fewer
_MIN_AREA = 0.25  # median area of a colour over the image's side; 0.1 with blended edges
_STRIP = 1 << 22  # values averaged at a time, to save memory


def crop_box(width: int, height: int, fit: Fit) -> tuple[float, float, float, float]:
    """The part of an image that is kept when it is made square.

    Args:
        width: width of the image in pixels.
        height: height of the image in pixels.
        fit: how the image is made square.

    Returns:
        Left, top, right and bottom in pixels, which may be half-integers.
    """
    if fit == "resize":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def to_square(
    image: Image.Image, size: int | None, fit: Fit, resample: Resample = "auto"
) -> Image.Image:
    """Resize an image to ``size`` x ``size`` pixels; unchanged if ``size`` is None."""
    if size is None or image.size == (size, size):
        return image
    box = crop_box(*image.size, fit)
    if resample == "nearest" or (resample == "auto" and has_hard_edges(image)):
        return image.resize((size, size), Image.Resampling.NEAREST, box)
    left, top, right, bottom = box
    pixels = np.asarray(image)
    rows = _means(pixels, np.linspace(top, bottom, size + 1))
    square = _means(rows.swapaxes(0, 1), np.linspace(left, right, size + 1)).swapaxes(0, 1)
    return Image.fromarray(np.rint(square).astype(np.uint8))


def has_hard_edges(image: Image.Image) -> bool:
    """Whether an image has few exact colours, in areas: drawn without blended edges or noise."""
    colours = image.getcolors(MAX_COLOURS)
    if colours is None:
        return False
    if np.median([count for count, _ in colours]) < _MIN_AREA * min(image.size):
        return False
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    across = (pixels[:, 1:] == pixels[:, :-1]).all(2)
    down = (pixels[1:] == pixels[:-1]).all(2)
    return bool(across.sum() + down.sum() >= _MIN_EQUAL * (across.size + down.size))


def _means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Exact means over intervals of the first axis.

    Args:
        values: ``(n, ...)``.
        edges: ends of the intervals in units of the axis, ascending from 0 to n at most,
            ``(size + 1,)``.

    Returns:
        ``(size, ...)`` float64.
    """
    n, flat = len(values), values.reshape(len(values), -1)
    whole = np.minimum(edges.astype(int), n - 1)
    part, length = (edges - whole)[:, None], np.diff(edges)[:, None]
    out = np.empty((len(edges) - 1, flat.shape[1]))
    width = max(1, _STRIP // n)
    for start in range(0, flat.shape[1], width):
        strip = flat[:, start : start + width].astype(np.float64)
        total = np.zeros((n + 1, strip.shape[1]))
        strip.cumsum(0, out=total[1:])
        at_edges = total[whole] + part * strip[whole]
        out[:, start : start + width] = np.diff(at_edges, axis=0) / length
    return out.reshape(len(out), *values.shape[1:])
