r"""Synthetic scenes with ground truth (appendix C.1): dead leaves with hard edges.

Slots are in depth order, front to back; slot n has mask :math:`m_n` and colour :math:`c_n`. What
is visible of it is its region, what is visible of no object is background (Eqs. 1-3 for binary
masks, counted from the front):

.. math:: r_n = m_n \prod_{j < n} (1 - m_j), \qquad r_{bg} = \prod_j (1 - m_j), \qquad
          x = \sum_n r_n c_n + r_{bg} c_{bg}.

A scene is a function of (config, seed, index), the same bits whatever the batch and the device:
what is in it comes from :mod:`econ_pyro.data.synthetic.layout`, its masks from the integer
geometry of :mod:`econ_pyro.data.synthetic.shapes`. Objects cut from pictures are in
:mod:`econ_pyro.data.synthetic.sprites`.

- Background: each channel uniform in 0 to 127. Colours: fixed for each class, or each channel
  uniform in 128 to 255, or near the background.
- Sides, angles and then positions are uniform on a grid (1/8 pixel, 1/256 turn, 1/16 pixel); a
  position is such that the turned object lies wholly inside the image.
- The depth order is uniform and independent of everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from econ_pyro.data.ground_truth import layers_of
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.layout import Cast, Plan, levels, make_plan
from econ_pyro.data.synthetic.sprites import SpriteCast
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
"""Colour of each class in scenes with unique colours, RGB."""


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes with N slots for objects, front to back (slot 0 hides the others)."""

    image: Tensor
    """:math:`(B, 3, H, W)` float32 in [0, 1]: multiples of 1/255."""
    label: Tensor
    """Class of each object, :math:`(B, N)` int64; -1 is an empty slot."""
    colour: Tensor
    """:math:`(B, N, 3)` uint8, the mean of a sprite's; black in an empty slot."""
    background: Tensor
    """:math:`(B, 3)` uint8."""
    position: Tensor
    """Centre (x, y) of each object's bounding box in pixels from the image's top left corner,
    :math:`(B, N, 2)` float32."""
    side: Tensor
    """Side of the bounding box before it is turned, in pixels, :math:`(B, N)` float32."""
    angle: Tensor
    """In radians, clockwise as seen, :math:`(B, N)` float32."""
    mask: Tensor
    """Whole objects, occluded parts included, :math:`(B, N, H, W)` bool."""
    region: Tensor
    """Visible parts, disjoint, :math:`(B, N, H, W)` bool."""

    def __len__(self) -> int:
        return len(self.image)

    @property
    def count(self) -> Tensor:
        """Number of objects, hidden ones included, :math:`(B,)` int64."""
        return (self.label >= 0).sum(1)

    @property
    def background_region(self) -> Tensor:
        """Visible part of the background, :math:`(B, H, W)` bool."""
        return ~self.region.any(1)

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on another device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def layers(self, steps: int) -> Tensor:
        """True regions as the model's layers (:func:`econ_pyro.data.ground_truth.layers_of`)."""
        return layers_of(self.region, self.label >= 0, steps)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[-2], self.image.shape[-1]


class SceneRenderer:
    """Draws scene ``i`` of a seed.

    Args:
        config: what the scenes look like.
        seed: any integer.

    Raises:
        EconError: there are no sprites where the configuration says, or no usable ones.
    """

    config: SceneConfig
    """With the classes by name, those of sprites too."""

    def __init__(self, config: SceneConfig, seed: int) -> None:
        self._cast: Cast = SpriteCast(config) if config.sprites else ShapeCast(config)
        self.config, self.seed = replace(config, classes=self._cast.classes), seed

    def render(self, indices: Tensor) -> Scenes:
        """Scenes with their ground truth.

        Args:
            indices: numbers of the scenes, :math:`(B,)` int64, not negative.

        Returns:
            B scenes on the device of ``indices``.
        """
        plan = make_plan(self.config, self._cast, self.seed, indices)
        mask, image = self._cast.draw(plan)
        region = torch.empty_like(mask)
        b, n, h, w = mask.shape
        scope = mask.new_ones(b, h, w)
        for k in range(n):
            region[:, k] = mask[:, k] & scope
            scope &= ~mask[:, k]
        return Scenes(
            image=image,
            label=plan.label,
            colour=plan.colour.to(torch.uint8),
            background=plan.background.to(torch.uint8),
            position=plan.centre.float() / shapes.UNIT,
            side=plan.side.float() / shapes.UNIT,
            angle=plan.turn.float() * (2 * math.pi / shapes.TURNS),
            mask=mask,
            region=region,
        )

    def render_images(self, indices: Tensor) -> Tensor:
        """The scenes' images alone, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        return self._cast.draw(make_plan(self.config, self._cast, self.seed, indices))[1]


class ShapeCast:
    """Objects of one colour: geometric shapes, one look per class."""

    def __init__(self, config: SceneConfig) -> None:
        self.classes, self.size = config.classes, config.size
        self.palette = torch.tensor([COLOURS[name] for name in config.classes])

    def choose(self, label: Tensor, u: Tensor) -> Tensor:
        """The class' only look."""
        return label

    def reach(self, look: Tensor, side: Tensor, turn: Tensor) -> Tensor:
        """How far objects reach from their centres."""
        return shapes.reach(self.classes, look, side, turn)

    def draw(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Masks and images."""
        flat = (plan.label, plan.centre, plan.side, plan.turn)
        label, centre, side, turn = (x.flatten(0, 1) for x in flat)
        mask = shapes.masks(self.classes, label, centre, side, turn, self.size)
        mask = mask.unflatten(0, plan.label.shape)
        return mask, _paint(plan, mask)


def _paint(plan: Plan, mask: Tensor) -> Tensor:
    """Images: each pixel takes the colour of the front-most object there, or the background."""
    b, n, h, w = mask.shape
    front = torch.full((b, h, w), n, device=mask.device)
    for k in reversed(range(n)):
        front.masked_fill_(mask[:, k], k)
    palette = torch.cat([plan.colour, plan.background[:, None]], 1)  # (B, N + 1, 3)
    palette = levels(mask.device)[palette.mT]  # (B, 3, N + 1)
    return palette.gather(2, front.view(b, 1, h * w).expand(-1, 3, -1)).view(b, 3, h, w)
