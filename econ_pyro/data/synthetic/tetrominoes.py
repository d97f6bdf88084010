r"""Tetrominoes: pieces of four bevelled blocks that never overlap.

The recipe is measured from records of google-deepmind/multi_object_datasets. A frame of 35 x 35
pixels holds the pieces; each is whole, at any pixel. A block has 5 x 5 pixels, of which
:data:`BEVEL` is the brightness. A piece is red, green, blue, yellow, magenta or cyan.

The classes are the seven one-sided tetrominoes, their 19 orientations the variants. With
``class_weights`` of 2, 1, 4, 2, 2, 4, 4 all orientations are equally frequent. Pieces are placed
one after another, each uniformly among the places that are clear of those before it. A piece that
has no such place lies anywhere: rarely the third, in a fifth of the scenes the fifth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.layout import (
    COLOUR,
    PLACE,
    VARIANT,
    SceneLayout,
    channel_values,
    colours,
    sample_objects,
)
from econ_pyro.scene_config import SceneConfig

FRAME, BLOCK = 35, 5  # pixels
BEVEL = (
    (191, 255, 255, 255, 223),
    (127, 159, 159, 159, 191),
    (127, 159, 159, 159, 191),
    (127, 159, 159, 159, 191),
    (95, 63, 63, 63, 127),
)
"""Brightness of the pixels of a block."""
PURE_COLOURS = tuple(
    (255 * r, 255 * g, 255 * b)
    for r, g, b in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))
)
_LONGEST = 4 * BLOCK  # side of the longest piece in pixels
_CELL = BLOCK * shapes.UNIT
_FORMS = {
    "I": ("####",),
    "O": ("##", "##"),
    "T": ("###", ".#."),
    "S": (".##", "##."),
    "Z": ("##.", ".##"),
    "J": ("#..", "###"),
    "L": ("..#", "###"),
}
Cells = tuple[tuple[int, int], ...]


def orientations(name: str) -> list[Cells]:
    """Cells (x, y) of a class in each of its orientations, by clockwise quarter turns."""
    cells = [(x, y) for y, row in enumerate(_FORMS[name]) for x, c in enumerate(row) if c == "#"]
    found: list[Cells] = []
    for _ in range(4):
        left, top = min(x for x, _ in cells), min(y for _, y in cells)
        moved = tuple(sorted((x - left, y - top) for x, y in cells))
        if moved not in found:
            found.append(moved)
        cells = [(-y, x) for x, y in cells]
    return found


class TetrominoSet:
    """Tetrominoes; each orientation is a variant of its class.

    Args:
        config: distribution of the scenes, of kind ``tetrominoes``.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.classes, self.size = config.classes, config.size
        each = [orientations(name)[: None if config.rotate else 1] for name in config.classes]
        counts = torch.tensor([len(turned) for turned in each])
        self._variants = torch.stack([counts.cumsum(0) - counts, counts], 1)  # first and number
        self._turn = torch.tensor([t for turned in each for t in range(len(turned))])
        self._cells = torch.tensor([cells for turned in each for cells in turned])  # (V, 4, 2)
        self._brightness = torch.stack([_brightness(cells) for cells in self._cells])
        self._margin = (config.size - FRAME) // 2  # negative if the frame is cropped

    def sample(self, config: SceneConfig, seed: int, indices: Tensor) -> SceneLayout:
        """Layouts of scenes."""
        label, background, each = sample_objects(config, seed, indices)
        empty = label < 0
        first, number = self._variants.to(label.device)[label.clamp(min=0)].unbind(-1)
        variant = (first + counter_rng.below(each[..., VARIANT], number)).masked_fill(empty, 0)
        pure = torch.tensor(PURE_COLOURS, device=label.device)
        own = pure[counter_rng.below(each[..., COLOUR.start], len(pure))]
        colour = colours(config, background, own, each[..., COLOUR])
        colour = colour.masked_fill(empty[..., None], 0)

        cells = self._cells.to(label.device)[variant]  # (B, N, 4, 2)
        extent = cells.amax(2) + 1  # (B, N, 2): width and height in cells
        corner = _places(each[..., PLACE.start], cells, empty)
        centre = (corner + self._margin) * shapes.UNIT + extent * _CELL // 2
        side = extent.amax(-1) * _CELL
        turn = self._turn.to(label.device)[variant] * (shapes.TURNS // 4)
        return SceneLayout(
            label=label,
            variant=variant,
            centre=centre.masked_fill(empty[..., None], 0),
            side=side.masked_fill(empty, 0),
            turn=turn.masked_fill(empty, 0),
            colour=colour,
            background=background,
        )

    def draw(self, layout: SceneLayout) -> tuple[Tensor, Tensor]:
        """Masks and images."""
        device = layout.label.device
        cells = self._cells.to(device)[layout.variant]
        corner = (layout.centre - (cells.amax(2) + 1) * _CELL // 2) // shapes.UNIT
        axis = torch.arange(self.size, device=device)
        x, y = ((axis - corner[..., i, None]).clamp(-1, _LONGEST) + 1 for i in (0, 1))
        variant = layout.variant[..., None, None]
        brightness = self._brightness.to(device)[variant, y[..., None], x[..., None, :]]
        mask = (brightness > 0) & (layout.label >= 0)[..., None, None]  # (B, N, H, W)
        image = layout.background[..., None, None].repeat(1, 1, self.size, self.size)
        for k in reversed(range(mask.shape[1])):
            painted = layout.colour[:, k, :, None, None] * brightness[:, k, None]
            image = torch.where(mask[:, k, None], (painted + 127) // 255, image)
        return mask, channel_values(device)[image]


def _brightness(cells: Tensor) -> Tensor:
    """Brightness of a piece of cells ``(4, 2)`` with a border of one pixel; 0 outside."""
    out = torch.zeros(_LONGEST + 2, _LONGEST + 2, dtype=torch.int64)
    for x, y in (1 + BLOCK * cells).tolist():
        out[y : y + BLOCK, x : x + BLOCK] = torch.tensor(BEVEL)
    return out


def _places(u: Tensor, cells: Tensor, empty: Tensor) -> Tensor:
    """Corners of pieces, each clear of those before it.

    Args:
        u: 32 random bits of each piece, ``(B, N)``.
        cells: cells of each piece, ``(B, N, 4, 2)``.
        empty: slots without a piece, ``(B, N)``.

    Returns:
        Corner of each piece in pixels from that of the frame, ``(B, N, 2)``.
    """
    b, slots = u.shape
    side = FRAME - BLOCK + 1  # positions of a block on each axis
    axis = torch.arange(side, device=u.device)
    rows = torch.arange(b, device=u.device)[:, None, None]
    taken = torch.zeros(b, side, side, dtype=torch.bool, device=u.device)  # for a block, [y, x]
    corner = torch.zeros(b, slots, 2, dtype=torch.int64, device=u.device)
    for n in range(slots):
        fits = _in_frame(cells[:, n], axis, side)
        free = fits.clone()
        for cell in range(4):
            x, y = (axis + BLOCK * cells[:, n, cell, i, None] for i in (0, 1))  # (B, side)
            free &= ~taken[rows, y.clamp(max=side - 1)[:, :, None], x.clamp(max=side - 1)[:, None]]
        free |= fits & ~free.any(2).any(1)[:, None, None]  # where there is no room
        flat = free.flatten(1)
        order = flat.cumsum(1)  # 1 at the first free place
        wanted = counter_rng.below(u[:, n], order[:, -1]) + 1
        chosen = ((order == wanted[:, None]) & flat).int().argmax(1)
        corner[:, n] = torch.stack([chosen % side, chosen // side], 1)
        blocks = corner[:, n, None] + BLOCK * cells[:, n]  # (B, 4, 2)
        near = (axis - blocks[..., None]).abs() < BLOCK  # (B, 4, 2, side)
        taken |= (near[:, :, 1, :, None] & near[:, :, 0, None]).any(1) & ~empty[:, n, None, None]
    return corner


def _in_frame(cells: Tensor, axis: Tensor, side: int) -> Tensor:
    """Corners at which pieces of cells ``(B, 4, 2)`` are whole, ``(B, side, side)`` bool."""
    fits = axis + BLOCK * cells.amax(1)[..., None] < side  # (B, 2, side)
    return fits[:, 1, :, None] & fits[:, 0, None]
