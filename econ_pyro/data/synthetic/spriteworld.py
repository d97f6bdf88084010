"""Spriteworld scenes (Watters et al., 2019) with amodal masks and depth order.

The sprites of a Spriteworld state are polygons, listed back to front, with coordinates in
fractions of the frame from the lower left corner. Here, a pixel belongs to a sprite if its centre
lies inside the polygon, and has the colour of the frontmost sprite. Only properties of the sprites
are read, so the package need not be installed. If it is, use ``pip install --no-deps spriteworld
six``: its environments and renderers need packages that do not run on recent versions of Python,
and its factor distributions do not run with NumPy 2.

:func:`econ_pyro.data.readers.numpy_files.save_npz` writes the scenes as a dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.path import Path

from econ_pyro.data.synthetic.renderer import Scenes
from econ_pyro.errors import EconError

SHAPES = (
    "triangle", "square", "pentagon", "hexagon", "octagon", "circle",
    "star_4", "star_5", "star_6", "spoke_4", "spoke_5", "spoke_6",
)  # fmt: skip
"""Names of Spriteworld's shapes, in the order of the labels."""
Colour = tuple[int, int, int]


class Sprite(Protocol):
    """The properties of ``spriteworld.sprite.Sprite`` that are read."""

    @property
    def shape(self) -> str:
        """Name of the shape."""

    @property
    def angle(self) -> float:
        """Anticlockwise rotation in degrees."""

    @property
    def color(self) -> tuple[Any, Any, Any]:
        """Three numbers, in any colour space."""

    @property
    def vertices(self) -> np.ndarray:
        """Corners (x, y) of the polygon, y up, in fractions of the frame."""


def from_sprites(
    states: Sequence[Sequence[Sprite]],
    size: int = 64,
    background: Colour = (0, 0, 0),
    to_rgb: Callable[[tuple[Any, Any, Any]], Sequence[int]] = lambda colour: colour,
    classes: Sequence[str] = SHAPES,
) -> Scenes:
    """Render scenes with ground truth from lists of sprites.

    Args:
        states: sprites of each scene, back to front as in Spriteworld.
        size: height and width of the images in pixels.
        background: RGB colour of the background, 0 to 255.
        to_rgb: converts a sprite's colour to RGB in 0 to 255, like ``color_to_rgb`` of
            Spriteworld's renderer.
        classes: names of the shapes, by label.

    Returns:
        One scene per state, with the maximum number of sprites as slots. ``side`` is the longer
        side of the axis-aligned bounding box of the rotated sprite, ``position`` its centre.

    Raises:
        EconError: the shape of a sprite is not among the classes.
    """
    slots = max(map(len, states), default=0)
    b = len(states)
    label = np.full((b, slots), -1, np.int64)
    colour = np.zeros((b, slots, 3), np.uint8)
    position, side = np.zeros((b, slots, 2), np.float32), np.zeros((b, slots), np.float32)
    angle = np.zeros((b, slots), np.float32)
    mask = np.zeros((b, slots, size, size), bool)
    region = np.zeros_like(mask)
    image = np.empty((b, size, size, 3), np.uint8)
    image[:] = background
    axis = np.arange(size) + 0.5
    centres = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for i, sprites in enumerate(states):
        for k, sprite in enumerate(reversed(sprites)):
            if sprite.shape not in classes:
                raise EconError(f"shapes among {', '.join(classes)}", repr(sprite.shape))
            corners = np.array([0, size]) + np.array([size, -size]) * sprite.vertices  # y down
            low, high = corners.min(0), corners.max(0)
            label[i, k] = list(classes).index(sprite.shape)
            colour[i, k] = to_rgb(sprite.color)
            position[i, k], side[i, k] = (low + high) / 2, (high - low).max()
            angle[i, k] = -np.deg2rad(sprite.angle) % (2 * np.pi)
            mask[i, k] = Path(corners).contains_points(centres).reshape(size, size)
            region[i, k] = mask[i, k] & ~mask[i, :k].any(0)
            image[i][region[i, k]] = colour[i, k]
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2)
    return Scenes(
        image=pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255),
        label=torch.from_numpy(label),
        colour=torch.from_numpy(colour),
        background=torch.tensor(background, dtype=torch.uint8).expand(b, 3).clone(),
        position=torch.from_numpy(position),
        side=torch.from_numpy(side),
        angle=torch.from_numpy(angle),
        mask=torch.from_numpy(mask),
        region=torch.from_numpy(region),
    )
