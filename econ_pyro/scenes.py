r"""Synthetic scenes with ground truth (appendix C.1): dead leaves with hard edges.

Slots are in depth order, front to back; slot n has mask :math:`m_n` and colour :math:`c_n`. What
is visible of it is its region, what is visible of no object is background (Eqs. 1-3 for binary
masks, counted from the front):

.. math:: r_n = m_n \prod_{j < n} (1 - m_j), \qquad r_{bg} = \prod_j (1 - m_j), \qquad
          x = \sum_n r_n c_n + r_{bg} c_{bg}.

A scene is a function of (config, seed, index), the same bits whatever the batch and the device:
its random numbers come from :mod:`econ_pyro.counter`, its masks from the integer geometry of
:mod:`econ_pyro.shapes`.

- Background: each channel uniform in 0 to 127. Colours: fixed for each class, or each channel
  uniform in 128 to 255, or near the background.
- Sides, angles and then positions are uniform on a grid (1/8 pixel, 1/256 turn, 1/16 pixel); a
  position is such that the turned object lies wholly inside the image.
- The depth order is uniform and independent of everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor

from econ_pyro import counter, shapes
from econ_pyro.config import SceneConfig
from econ_pyro.truth import layers_of

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
    """:math:`(B, N, 3)` uint8; black in an empty slot."""
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
        """True regions as the model's layers; see :func:`econ_pyro.truth.layers_of`."""
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
    """

    def __init__(self, config: SceneConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def render(self, indices: Tensor) -> Scenes:
        """Scenes with their ground truth.

        Args:
            indices: numbers of the scenes, :math:`(B,)` int64, not negative.

        Returns:
            B scenes on the device of ``indices``.
        """
        plan = _plan(self.config, self.seed, indices)
        mask = self._masks(plan)
        region = torch.empty_like(mask)
        b, n, h, w = mask.shape
        scope = mask.new_ones(b, h, w)
        for k in range(n):
            region[:, k] = mask[:, k] & scope
            scope &= ~mask[:, k]
        return Scenes(
            image=_paint(plan, mask),
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
        plan = _plan(self.config, self.seed, indices)
        return _paint(plan, self._masks(plan))

    def _masks(self, plan: _Plan) -> Tensor:
        size = self.config.size
        flat = (plan.label, plan.centre, plan.side, plan.turn)
        label, centre, side, turn = (x.flatten(0, 1) for x in flat)
        out = shapes.masks(self.config.classes, label, centre, side, turn, size)
        return out.unflatten(0, plan.label.shape)


@dataclass(frozen=True)
class _Plan:
    """What a scene consists of, in integers (lengths and angles as in shapes)."""

    label: Tensor  # (B, N)
    centre: Tensor  # (B, N, 2)
    side: Tensor  # (B, N)
    turn: Tensor  # (B, N)
    colour: Tensor  # (B, N, 3)
    background: Tensor  # (B, 3)


# Columns of the random numbers: first those of the scene, then as many for each slot.
_COLUMNS = 16
_BACKGROUND, _COUNT, _CLASS = slice(0, 3), 3, 4
_RANK, _OWN_CLASS, _DEPTH, _SIDE, _TURN, _X, _Y = range(7)
_COLOUR = slice(7, 10)


def _plan(config: SceneConfig, seed: int, indices: Tensor) -> _Plan:
    n, slots = config.objects, max(config.objects, len(config.classes))
    u = counter.bits(seed, indices, _COLUMNS * (1 + slots)).unflatten(1, (1 + slots, _COLUMNS))
    scene, each = u[:, 0], u[:, 1:]
    label = _labels(config, scene, each)
    empty, each = label < 0, each[:, :n]

    low = round(config.object_size[0] * config.size * shapes.UNIT / 2)
    high = max(low, round(config.object_size[1] * config.size * shapes.UNIT / 2))
    side = 2 * (low + counter.below(each[..., _SIDE], high - low + 1))
    side = side.masked_fill(empty, 0)
    turn = counter.below(each[..., _TURN], shapes.TURNS if config.rotate else 1)
    turn = turn.masked_fill(empty, 0)

    flat = (label.clamp(min=0).flatten(), side.flatten(), turn.flatten())
    reach = shapes.reach(config.classes, *flat).unflatten(0, label.shape)  # (B, N, 4)
    room = config.size * shapes.UNIT - reach[..., :2] - reach[..., 2:] + 1
    centre = reach[..., :2] + counter.below(each[..., _X : _Y + 1], room)
    centre = centre.masked_fill(empty[..., None], 0)

    background = counter.below(scene[:, _BACKGROUND], 128)
    colour = _colours(config, background, label, each[..., _COLOUR])
    return _Plan(label, centre, side, turn, colour.masked_fill(empty[..., None], 0), background)


def _labels(config: SceneConfig, scene: Tensor, each: Tensor) -> Tensor:
    """Classes in depth order, ``(B, N)``, with -1 after the last object."""
    n, k = config.objects, len(config.classes)
    if config.selection == "same":
        label = _choose(config, scene[:, _CLASS, None]).expand(-1, n)
    else:
        label = _choose(config, each[:, :n, _OWN_CLASS])
    if config.selection == "one-of-each":
        each_once = _ranks(each[:, :k, _RANK])[:, :n]
        label = torch.cat([each_once, label[:, k:]], 1)

    low = n if config.min_objects is None else config.min_objects
    count = low + counter.below(scene[:, _COUNT, None], n - low + 1)  # (B, 1)
    empty = torch.arange(n, device=scene.device) >= count
    # Shuffle the objects; the empty slots, with the largest keys, stay behind them.
    depth = _ranks(each[:, :n, _DEPTH] + (empty.long() << 32))
    return label.masked_fill(empty, -1).gather(1, depth)


def _ranks(keys: Tensor) -> Tensor:
    """A permutation of the columns from random keys; ties fall the same way on every device."""
    return torch.argsort(keys, dim=1, stable=True)


def _choose(config: SceneConfig, u: Tensor) -> Tensor:
    """A class with probability in proportion to its weight, from 32 random bits."""
    weights = config.class_weights or (1.0,) * len(config.classes)
    total, ends, acc = math.fsum(weights), [], 0.0
    for w in weights[:-1]:
        acc += w
        ends.append(round(acc / total * 2**32))
    return (u[..., None] >= torch.tensor(ends, dtype=torch.int64, device=u.device)).sum(-1)


def _colours(config: SceneConfig, background: Tensor, label: Tensor, u: Tensor) -> Tensor:
    """Colours of the objects, ``(B, N, 3)``."""
    if config.near_background is not None:
        return _near(background[:, None], config.near_background, u[..., 0])
    if config.kind == "random-colours":
        return 128 + counter.below(u, 128)
    table = torch.tensor([COLOURS[name] for name in config.classes], device=label.device)
    return table[label.clamp(min=0)]


def _near(background: Tensor, distance: int, u: Tensor) -> Tensor:
    """Uniform over the colours within a distance of the background's, itself excepted."""
    low = (background - distance).clamp(min=0)
    n = (background + distance).clamp(max=255) - low + 1  # (B, 1, 3): choices a channel
    own = background - low
    n_g, n_b = n[..., 1], n[..., 2]
    number = (own[..., 0] * n_g + own[..., 1]) * n_b + own[..., 2]
    pick = counter.below(u, n.prod(-1) - 1)
    pick = pick + (pick >= number)  # passes over the background's own colour
    return low + torch.stack([pick // (n_g * n_b), pick // n_b % n_g, pick % n_b], -1)


@cache
def _levels(device: torch.device) -> Tensor:
    """The 256 values of a channel as float32; a table, because devices round x / 255 apart."""
    return (torch.arange(256, dtype=torch.float32) / 255).to(device)


def _paint(plan: _Plan, mask: Tensor) -> Tensor:
    """Images: each pixel takes the colour of the front-most object there, or the background."""
    b, n, h, w = mask.shape
    front = torch.full((b, h, w), n, device=mask.device)
    for k in reversed(range(n)):
        front.masked_fill_(mask[:, k], k)
    palette = torch.cat([plan.colour, plan.background[:, None]], 1)  # (B, N + 1, 3)
    palette = _levels(mask.device)[palette.mT]  # (B, 3, N + 1)
    return palette.gather(2, front.view(b, 1, h * w).expand(-1, 3, -1)).view(b, 3, h, w)
