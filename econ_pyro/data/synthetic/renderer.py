r"""Synthetic scenes with ground truth (appendix C.1): dead leaves with hard edges.

Slots are in depth order, front to back; slot n has mask :math:`m_n` and colour :math:`c_n`. Its
region is its visible part, and all remaining pixels are background (Eqs. 1-3 for binary masks,
counted from the front):

.. math:: r_n = m_n \prod_{j < n} (1 - m_j), \qquad r_{bg} = \prod_j (1 - m_j), \qquad
          x = \sum_n r_n c_n + r_{bg} c_{bg}.

A scene is a function of (config, seed, index), bit-identical for any batch size and device. Its
layout comes from :mod:`econ_pyro.data.synthetic.layout`, its masks from the integer geometry of
:mod:`econ_pyro.data.synthetic.shapes` or from :mod:`econ_pyro.data.synthetic.sprites`;
:mod:`econ_pyro.data.synthetic.tetrominoes` has both.

- Background: each channel is uniform in 0 to 127. Colours: fixed per class, or each channel is
  uniform in 128 to 255, or near the background, or as in the field's sets
  (:data:`econ_pyro.scene_config.SCENE_SETS`).
- Sides, angles and then positions are uniform on a grid (1/8 pixel, 1/256 turn, 1/16 pixel). The
  rotated object lies entirely within the image.
- The depth order is uniform and independent of everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from econ_pyro.data.ground_truth import regions_as_layers
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.clevr_like import ClevrSet
from econ_pyro.data.synthetic.layout import ObjectSet
from econ_pyro.data.synthetic.shape_set import ShapeSet
from econ_pyro.data.synthetic.sprites import SpriteSet
from econ_pyro.data.synthetic.tetrominoes import TetrominoSet
from econ_pyro.data.synthetic.textured import TexturedSet
from econ_pyro.scene_config import SceneConfig


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes with N object slots, front to back (slot 0 occludes the others)."""

    image: Tensor
    """:math:`(B, 3, H, W)` float32 in [0, 1]: multiples of 1/255."""
    label: Tensor
    """Class of each object, :math:`(B, N)` int64; -1 is an empty slot."""
    colour: Tensor
    """:math:`(B, N, 3)` uint8, for sprites the mean colour; black in an empty slot."""
    background: Tensor
    """:math:`(B, 3)` uint8."""
    position: Tensor
    """Centre (x, y) of each object's bounding box in pixels from the image's top left corner,
    :math:`(B, N, 2)` float32."""
    side: Tensor
    """Side of the bounding box before rotation, in pixels, :math:`(B, N)` float32."""
    angle: Tensor
    """Clockwise rotation in radians, :math:`(B, N)` float32."""
    mask: Tensor
    """Amodal masks, including occluded parts, :math:`(B, N, H, W)` bool."""
    region: Tensor
    """Visible regions, disjoint, :math:`(B, N, H, W)` bool."""

    def __len__(self) -> int:
        return len(self.image)

    @property
    def count(self) -> Tensor:
        """Number of objects, including fully occluded ones, :math:`(B,)` int64."""
        return (self.label >= 0).sum(1)

    @property
    def background_region(self) -> Tensor:
        """Visible region of the background, :math:`(B, H, W)` bool."""
        return ~self.region.any(1)

    def to(self, device: torch.device | str) -> Scenes:
        """Move the scenes to a device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def layers(self, slots: int) -> Tensor:
        """True regions of the layers; see ``ground_truth.regions_as_layers``."""
        return regions_as_layers(self.region, self.label >= 0, slots)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[-2], self.image.shape[-1]


class SceneRenderer:
    """Renders scenes by index.

    Args:
        config: distribution of the scenes.
        seed: any integer.

    Raises:
        EconError: the folder of sprites does not exist or has no usable sprites.
    """

    config: SceneConfig
    """The configuration, with the names of all classes, including those of sprites."""

    def __init__(self, config: SceneConfig, seed: int) -> None:
        self._objects = _objects(config)
        self.config, self.seed = replace(config, classes=self._objects.classes), seed

    def render(self, indices: Tensor) -> Scenes:
        """Render scenes with ground truth.

        Args:
            indices: indices of the scenes, :math:`(B,)` int64, non-negative.

        Returns:
            B scenes on the device of ``indices``.
        """
        layout = self._objects.sample(self.config, self.seed, indices)
        mask, image = self._objects.draw(layout)
        region = torch.empty_like(mask)
        b, n, h, w = mask.shape
        scope = mask.new_ones(b, h, w)
        for k in range(n):
            region[:, k] = mask[:, k] & scope
            scope &= ~mask[:, k]
        return Scenes(
            image=image,
            label=layout.label,
            colour=layout.colour.to(torch.uint8),
            background=layout.background.to(torch.uint8),
            position=layout.centre.float() / shapes.UNIT,
            side=layout.side.float() / shapes.UNIT,
            angle=layout.turn.float() * (2 * math.pi / shapes.TURNS),
            mask=mask,
            region=region,
        )

    def render_images(self, indices: Tensor) -> Tensor:
        """Render images alone, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        return self._objects.draw(self._objects.sample(self.config, self.seed, indices))[1]


def _objects(config: SceneConfig) -> ObjectSet[Any]:
    if config.sprites:
        return SpriteSet(config)
    if config.kind == "tetrominoes":
        return TetrominoSet(config)
    if config.kind == "clevr-like":
        return ClevrSet(config)
    return TexturedSet(config) if config.kind == "textured" else ShapeSet(config)
