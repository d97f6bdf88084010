r"""Sheets of image panels, enlarged by integer factors without resampling.

A data pixel becomes a square of ``scale`` x ``scale`` sheet pixels. Sheets are Pillow images,
composed by :func:`grid`, :func:`beside`, :func:`above` and :func:`framed`, and written atomically
by :func:`save`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.files.storage import write_atomically

Colour = tuple[int, int, int]

# Okabe and Ito (2008), safe for colour-blind readers; yellow is last, as it is faint on white
PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (110, 110, 110),
    (240, 228, 66),
)
INK: Colour = (32, 32, 32)
FAINT: Colour = (110, 110, 110)
FRAME: Colour = (190, 190, 190)
PAPER: Colour = (255, 255, 255)
CHECKER = (0.70, 0.78)  # mid grey, in contrast to light and dark objects

# in sheet pixels
GAP = 6  # between panels
MARGIN = 14  # around a sheet
BAR = 4  # thickness of an expert's colour bar
TEXT = 13  # font size
CHIP = TEXT + 6  # width of a colour chip and the space after it


class Label(NamedTuple):
    """Label of a row or column."""

    text: str
    note: str = ""
    """A second, fainter line."""
    colour: Colour | None = None
    """Colour of a chip before the text."""


def expert_colour(k: int) -> Colour:
    """Colour of expert k in every figure: eight, then darker and lighter ones, then the same."""
    turn, i = divmod(k, len(PALETTE))
    share, other = ((0.0, INK), (0.5, INK), (0.5, PAPER))[turn % 3]
    r, g, b = (round((1 - share) * a + share * c) for a, c in zip(PALETTE[i], other, strict=True))
    return r, g, b


def panel(image: Tensor, scale: int) -> np.ndarray:
    """Enlarge an image.

    Args:
        image: ``(3, H, W)`` or ``(1, H, W)`` (grey); clamped to [0, 1].
        scale: sheet pixels per data pixel.

    Returns:
        ``(H * scale, W * scale, 3)`` uint8.
    """
    levels = image.detach().cpu().float().clamp(0, 1).mul(255).round().byte()
    pixels = levels.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def over_checker(
    image: Tensor, alpha: Tensor, scale: int, premultiplied: bool = False
) -> np.ndarray:
    """Enlarge an image, blended with a checkerboard by its alpha.

    Args:
        image: ``(3, H, W)`` in [0, 1].
        alpha: ``(1, H, W)`` in [0, 1].
        scale: sheet pixels per data pixel.
        premultiplied: whether the image is premultiplied by alpha, as r * mu is.
    """
    a = alpha.detach().cpu().float().clamp(0, 1)
    x = image.detach().cpu().float().clamp(0, 1)
    y, x_at = np.indices(a.shape[1:])
    cell = max(1, round(a.shape[2] / 8))
    board = a.new_tensor(CHECKER)[a.new_tensor((y // cell + x_at // cell) % 2).long()]
    return panel((x if premultiplied else a * x) + (1 - a) * board, scale)


def scale_for(size: int, width: int) -> int:
    """Integer factor that makes a panel about ``width`` wide."""
    return max(1, round(width / size))


def grid(
    panels: Sequence[Sequence[np.ndarray | None]],
    rows: Sequence[Label] = (),
    columns: Sequence[Label] = (),
    bars: Sequence[Sequence[Colour | None]] = (),
) -> Image.Image:
    """Arrange panels of one size in rows and columns.

    Args:
        panels: rows of panels; None leaves a cell empty.
        rows: labels on the left, one per row.
        columns: labels above, one per column.
        bars: colour of a bar below each panel.
    """
    height, width = next(p.shape[:2] for row in panels for p in row if p is not None)
    left = max((_label_width(label) for label in rows), default=-GAP) + GAP
    top = max((_label_height(label) for label in columns), default=-GAP) + GAP
    down, across = height + GAP + (BAR + 3 if bars else 0), width + GAP
    count = max(len(row) for row in panels)
    size = (left + count * across - GAP + 1, top + len(panels) * down - GAP + 1)  # 1: the frame
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(panels):
        for j, pixels in enumerate(row):
            if pixels is None:
                continue
            x, y = left + j * across, top + i * down
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=FRAME)
            sheet.paste(Image.fromarray(pixels), (x, y))
            colour = bars[i][j] if bars else None
            if colour:
                draw.rectangle((x, y + height + 3, x + width - 1, y + height + 2 + BAR), colour)
    for i, label in enumerate(rows):
        y = top + i * down + (height - _label_height(label)) // 2
        _write(draw, label, left - GAP - 2 - _text_width(label), y, "left")
    for j, label in enumerate(columns):
        y = top - GAP - _label_height(label)
        _write(draw, label, left + j * across + (width - _text_width(label)) // 2, y, "centre")
    return sheet


def legend(names: Sequence[str]) -> Image.Image:
    """A row with the colours and names of the experts."""
    labels = [Label(name, colour=expert_colour(k)) for k, name in enumerate(names)]
    widths = [_label_width(label) + 16 for label in labels]
    sheet = Image.new("RGB", (sum(widths) - 16, _label_height(labels[0])), PAPER)
    for label, at in zip(labels, np.cumsum([0, *widths[:-1]]), strict=True):
        _write(ImageDraw.Draw(sheet), label, int(at) + CHIP, 0, "left")
    return sheet


def beside(left: Image.Image, right: Image.Image, gap: int = 3 * GAP) -> Image.Image:
    """Place two sheets side by side, aligned at the bottom."""
    sheet = Image.new(
        "RGB", (left.width + gap + right.width, max(left.height, right.height)), PAPER
    )
    sheet.paste(left, (0, sheet.height - left.height))
    sheet.paste(right, (left.width + gap, sheet.height - right.height))
    return sheet


def above(upper: Image.Image, lower: Image.Image, gap: int = 2 * GAP) -> Image.Image:
    """Place two sheets one above the other, aligned on the right, where the panels are."""
    sheet = Image.new(
        "RGB", (max(upper.width, lower.width), upper.height + gap + lower.height), PAPER
    )
    sheet.paste(upper, (sheet.width - upper.width, 0))
    sheet.paste(lower, (sheet.width - lower.width, upper.height + gap))
    return sheet


def framed(sheet: Image.Image) -> Image.Image:
    """Add a margin to a sheet."""
    out = Image.new("RGB", (sheet.width + 2 * MARGIN, sheet.height + 2 * MARGIN), PAPER)
    out.paste(sheet, (MARGIN, MARGIN))
    return out


def save(sheet: Image.Image, path: str | Path) -> Path:
    """Write a sheet as a PNG file."""
    return write_figure(path, (".png",), lambda part: sheet.save(part, format="PNG"))


def write_figure(path: str | Path, suffixes: Sequence[str], write: Callable[[Path], None]) -> Path:
    """Write a figure atomically.

    Args:
        path: path of the file; its folder is created if it does not exist.
        suffixes: suffixes of the formats that ``write`` supports.
        write: writes the figure to the path that it receives.

    Raises:
        EconError: the path has another suffix.
    """
    path = Path(path)
    check_suffix(path, suffixes)
    write_atomically(path, write)
    return path


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Check the suffix of a figure's path.

    Raises:
        EconError: the path has another suffix.
    """
    if path.suffix.lower() not in suffixes:
        raise EconError(f"a figure's name that ends in {' or '.join(suffixes)}", str(path))


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")  # the font of the training curves
    return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), TEXT)


def _text_width(label: Label) -> int:
    widths = [_font().getlength(label.text), _font().getlength(label.note)]
    return int(np.ceil(max(widths)))


def _label_width(label: Label) -> int:
    return _text_width(label) + (CHIP if label.colour else 0) + 2


def _label_height(label: Label) -> int:
    return (TEXT + 4) * (2 if label.note else 1)


def _write(draw: ImageDraw.ImageDraw, label: Label, x: int, y: int, align: str) -> None:
    for line, (text, ink) in enumerate([(label.text, INK), (label.note, FAINT)]):
        space = _text_width(label) - _font().getlength(text)
        at = x + (space / 2 if align == "centre" else 0)
        draw.text((at, y + line * (TEXT + 4)), text, ink, _font())
    if label.colour:
        draw.rectangle((x - CHIP, y + 2, x - CHIP + TEXT - 2, y + TEXT), label.colour)
