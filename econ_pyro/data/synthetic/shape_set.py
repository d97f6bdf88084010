"""Geometric shapes of one colour."""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.layout import (
    SceneLayout,
    channel_values,
    frontmost,
    sample_layout,
)
from econ_pyro.scene_config import SceneConfig

COLOURS = {
    "circle": (255, 0, 0),
    "square": (0, 255, 0),
    "triangle": (0, 0, 255),
    "heart": (255, 0, 255),
    "star": (255, 255, 0),
    "cross": (0, 255, 255),
    "ellipse": (255, 128, 0),
}
"""RGB colour of each class in scenes with unique colours."""


class ShapeSet:
    """Geometric shapes of one colour, with one variant per class."""

    def __init__(self, config: SceneConfig) -> None:
        self.classes, self.size = config.classes, config.size
        self.palette = torch.tensor([COLOURS[name] for name in config.classes])

    def sample(self, config: SceneConfig, seed: int, indices: Tensor) -> SceneLayout:
        """Layouts of scenes."""
        return sample_layout(config, self, seed, indices)

    def choose(self, label: Tensor, u: Tensor) -> Tensor:
        """The only variant of each class."""
        return label

    def extents(self, variant: Tensor, side: Tensor, turn: Tensor) -> Tensor:
        """Extents of objects from their centres."""
        return shapes.extents(self.classes, variant, side, turn)

    def masks(self, layout: SceneLayout) -> Tensor:
        """Amodal masks, :math:`(B, N, H, W)` bool."""
        flat = (layout.label, layout.centre, layout.side, layout.turn)
        label, centre, side, turn = (x.flatten(0, 1) for x in flat)
        mask = shapes.masks(self.classes, label, centre, side, turn, self.size)
        return mask.unflatten(0, layout.label.shape)

    def draw(self, layout: SceneLayout) -> tuple[Tensor, Tensor]:
        """Masks and images."""
        mask = self.masks(layout)
        b, n, h, w = mask.shape
        palette = torch.cat([layout.colour, layout.background[:, None]], 1)  # (B, N + 1, 3)
        palette = channel_values(mask.device)[palette.mT]  # (B, 3, N + 1)
        front = frontmost(mask).view(b, 1, h * w).expand(-1, 3, -1)
        return mask, palette.gather(2, front).view(b, 3, h, w)
