"""Scenes of Spriteworld (Watters et al., 2019) with exact masks, the whole objects', and depth.

Spriteworld lists a state's sprites back to front, measures from the lower left corner in fractions
of the frame, and draws polygons. Here a pixel belongs to a sprite if its centre lies inside the
sprite's polygon, and takes the colour of the frontmost sprite there. Only the sprites' own
properties are read; the package need not be installed. ``pip install --no-deps spriteworld six``
leaves out what its environments and renderers need, which recent Pythons no longer run; nor do its
factor distributions run with numpy 2. :func:`econ_pyro.data.readers.numpy_files.save_npz` makes a
dataset of the scenes.
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
    """What is read of a ``spriteworld.sprite.Sprite``."""

    @property
    def shape(self) -> str:
        """Name of the shape."""

    @property
    def angle(self) -> float:
        """Degrees, anticlockwise."""

    @property
    def color(self) -> tuple[Any, Any, Any]:
        """Three numbers, in whatever space of colours."""

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
    """Scenes with ground truth from lists of sprites.

    Args:
        states: sprites of each scene, back to front as Spriteworld has them.
        size: height and width of the images in pixels.
        background: its colour, 0 to 255.
        to_rgb: from a sprite's colour to red, green and blue in 0 to 255, like the renderer's
            ``color_to_rgb``.
        classes: names of the shapes, by label.

    Returns:
        One scene a state, with as many slots as the fullest has sprites. ``side`` is the longer
        side of the upright box around a sprite as it lies, ``position`` the box's middle.

    Raises:
        EconError: a sprite's shape is not among the classes.
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
    middle = np.arange(size) + 0.5
    centres = np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 2)
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
