r"""Textured scenes: shapes and a background that each have a pattern of two colours.

Every pattern has its own angle and period. With (u, v) the coordinates of a pixel's centre along
the angle and across it, in periods and with random offsets, the share of the second colour is

- stripes: 1 where u modulo 1 is less than 1/2, otherwise 0;
- checkers: the same, exchanged where v modulo 1 is less than 1/2;
- smooth noise: random numbers at whole u and v, interpolated with the polynomial
  :math:`3 t^2 - 2 t^3`, their distance from 1/2 times 3/2.

Periods are uniform from 3/32 to 8/32 of the image. The first colour of an object is uniform, that
of the background as ``background`` says. Each channel of the second colour lies 48 to 111 away
from that of the first, towards the middle (for dark backgrounds 24 to 55; black ones have no
pattern). With ``near_background``, both colours of an object are near those of the background.
Scenes are drawn in integers, so they are bit-identical on every device. A texture as
*corruption* (:func:`econ_pyro.core.corruptions.texture`) is laid over images of any source.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.layout import (
    SceneLayout,
    channel_values,
    frontmost,
    further_bits,
)
from econ_pyro.data.synthetic.shape_set import ShapeSet
from econ_pyro.scene_config import SceneConfig

PATTERNS = ("stripes", "checkers", "noise")
PERIODS = (3 / 32, 8 / 32)
"""Minimum and maximum period of a pattern, as a fraction of the image."""
_ONE = 256  # cosine of 0, as in shapes; also the largest share of a colour
_KIND, _ANGLE, _PERIOD, _U, _V, _KEY = range(6)
_FIRST, _SECOND = slice(6, 9), slice(9, 12)
_COLUMNS = 12


@dataclass(frozen=True)
class TexturedLayout(SceneLayout):
    """Layouts of scenes with a pattern of each slot and, last, of the background."""

    pattern: Tensor
    """Index in PATTERNS, angle in 1/256 turn, period and two offsets in 1/16 pixel, and random
    bits, :math:`(B, N + 1, 6)` int64."""
    pair: Tensor
    """The two colours, :math:`(B, N + 1, 2, 3)` int64."""


class TexturedSet:
    """Geometric shapes with patterns.

    Args:
        config: distribution of the scenes, of kind ``textured``.
    """

    def __init__(self, config: SceneConfig) -> None:
        self._shapes = ShapeSet(config)
        self.classes, self.size = self._shapes.classes, self._shapes.size

    def sample(self, config: SceneConfig, seed: int, indices: Tensor) -> TexturedLayout:
        """Layouts of scenes; colours are the means of the two."""
        plain = self._shapes.sample(config, seed, indices)
        u = further_bits(config, seed, indices, _COLUMNS)
        low, high = (round(period * config.size * shapes.UNIT) for period in PERIODS)
        period = low + counter_rng.below(u[..., _PERIOD], high - low + 1)
        choices = (counter_rng.below(u[..., _KIND], len(PATTERNS)),
                   counter_rng.below(u[..., _ANGLE], shapes.TURNS), period,
                   counter_rng.below(u[..., _U], period), counter_rng.below(u[..., _V], period),
                   u[..., _KEY])  # fmt: skip
        background = _background(config, plain, u[:, -1:])
        pair = torch.cat([_objects(config, background, u[:, :-1]), background], 1)
        mean = (pair.sum(2) + 1) // 2
        values = {field.name: getattr(plain, field.name) for field in fields(plain)}
        values["colour"] = mean[:, :-1].masked_fill(plain.label[..., None] < 0, 0)
        values["background"] = mean[:, -1]
        return TexturedLayout(**values, pattern=torch.stack(choices, -1), pair=pair)

    def draw(self, layout: TexturedLayout) -> tuple[Tensor, Tensor]:
        """Masks and images."""
        mask = self._shapes.masks(layout)
        front = frontmost(mask)
        scene = torch.arange(len(front), device=front.device)[:, None, None]
        second = share(layout.pattern[scene, front])[..., None]
        first_colour, second_colour = layout.pair[scene, front].unbind(-2)  # (B, H, W, 3)
        mixed = first_colour * (_ONE - second) + second_colour * second
        values = (mixed + _ONE // 2) // _ONE
        return mask, channel_values(mask.device)[values].permute(0, 3, 1, 2).contiguous()


def share(pattern: Tensor) -> Tensor:
    """Share of the second colour at each pixel.

    Args:
        pattern: pattern of each pixel, :math:`(B, H, W, 6)` as in :class:`TexturedLayout`.

    Returns:
        :math:`(B, H, W)` int64, 0 to 256.
    """
    kind, angle, period, u0, v0, key = pattern.unbind(-1)
    h, w = kind.shape[1:]
    y, x = (torch.arange(n, device=kind.device) * shapes.UNIT + shapes.UNIT // 2 for n in (h, w))
    y = y[:, None]
    cos, sin = shapes.rotations().to(kind.device)[angle].unbind(-1)
    u, v = cos * x + sin * y + _ONE * u0, cos * y - sin * x + _ONE * v0  # in 1/4096 pixel
    in_u, in_v = ((a // period) % _ONE for a in (u, v))  # in 1/256 period
    stripes = in_u < _ONE // 2
    checkers = stripes ^ (in_v < _ONE // 2)
    u, v = (a.div(_ONE * period, rounding_mode="floor") for a in (u, v))  # in periods
    noise = _noise(key, u, v, in_u, in_v)
    return torch.where(kind == 2, noise, torch.where(kind == 1, checkers, stripes) * _ONE)


def _noise(key: Tensor, u: Tensor, v: Tensor, in_u: Tensor, in_v: Tensor) -> Tensor:
    s, t = (a * a * (3 * _ONE - 2 * a) // _ONE**2 for a in (in_u, in_v))

    def along(row: Tensor) -> Tensor:
        left, right = (counter_rng.at(key, column, row) >> 24 for column in (u, u + 1))
        return left * (_ONE - s) + right * s

    value = (along(v) * (_ONE - t) + along(v + 1) * t) // _ONE**2  # 0 to 255
    return ((value - _ONE // 2) * 3 // 2 + _ONE // 2).clamp(0, _ONE)


def _objects(config: SceneConfig, background: Tensor, u: Tensor) -> Tensor:
    """Pairs of colours, ``(B, N, 2, 3)``."""
    if (most := config.near_background) is not None:
        away = torch.stack([u[..., _FIRST], u[..., _SECOND]], 2)
        return (background + counter_rng.below(away, 2 * most + 1) - most).clamp(0, 255)
    first = counter_rng.below(u[..., _FIRST], 256)
    return _pair(first, u[..., _SECOND], 256)


def _background(config: SceneConfig, layout: SceneLayout, u: Tensor) -> Tensor:
    """A pair of colours of each background, ``(B, 1, 2, 3)``."""
    first, u = layout.background[:, None], u[..., _SECOND]
    if config.background == "black":
        return first[:, :, None].expand(-1, -1, 2, -1)
    if config.background == "grey":
        u = u[..., :1].expand(-1, -1, 3)
    return _pair(first, u, 128 if config.background == "dark" else 256)


def _pair(first: Tensor, u: Tensor, levels: int) -> Tensor:
    """Colours with a second one, whose channels differ by 3/16 to 7/16 of the levels."""
    distance = levels * 3 // 16 + counter_rng.below(u, levels // 4)
    return torch.stack(
        [first, torch.where(first < levels // 2, first + distance, first - distance)], -2
    )
