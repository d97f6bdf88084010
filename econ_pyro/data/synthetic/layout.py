"""Random layouts of scenes: classes, positions, sizes, angles, colours (appendix C.1).

A layout is a function of (config, seed, index), bit-identical on every device: it consists of
integers from :mod:`econ_pyro.data.counter_rng`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.synthetic import shapes
from econ_pyro.scene_config import SceneConfig

Layout = TypeVar("Layout", bound="SceneLayout")


class ObjectSet(Protocol[Layout]):
    """The objects that scenes consist of, and how they are arranged."""

    classes: tuple[str, ...]
    """Names of the object classes, by label."""

    def sample(self, config: SceneConfig, seed: int, indices: Tensor) -> Layout:
        """Sample the layouts of scenes; arguments as for :func:`sample_layout`."""

    def draw(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Draw masks :math:`(B, N, H, W)` bool and images :math:`(B, 3, H, W)` float32."""


class FreeObjects(Protocol):
    """Objects that may overlap: shapes of one colour, or sprites.

    Each class has one or more variants, such as the files of a class of sprites.
    """

    palette: Tensor
    """Colour of each variant, for sprites the mean colour, :math:`(variants, 3)` int64."""

    def choose(self, label: Tensor, u: Tensor) -> Tensor:
        """Choose a variant of each object's class.

        Args:
            label: class of each object, :math:`(B, N)` int64, non-negative.
            u: 32 random bits per object, :math:`(B, N)` int64.

        Returns:
            Index of the variant among those of all classes, :math:`(B, N)` int64.
        """

    def extents(self, variant: Tensor, side: Tensor, turn: Tensor) -> Tensor:
        """Extents of objects from their centres, as ``shapes.extents``."""


@dataclass(frozen=True)
class SceneLayout:
    """Layouts of B scenes with N slots, front to back, in the integer units of ``shapes``."""

    label: Tensor  # (B, N)
    variant: Tensor  # (B, N); 0 in an empty slot
    centre: Tensor  # (B, N, 2)
    side: Tensor  # (B, N)
    turn: Tensor  # (B, N)
    colour: Tensor  # (B, N, 3)
    background: Tensor  # (B, 3)


# columns of the random numbers: 16 for the scene, then 16 for each slot
_COLUMNS = 16
_BACKGROUND, _COUNT, _CLASS = slice(0, 3), 3, 4
_RANK, _OWN_CLASS, _DEPTH, SIDE, TURN, _X, _Y = range(7)
COLOUR, VARIANT, PLACE = slice(7, 10), 10, slice(_X, _Y + 1)
"""Columns of a slot's colour, variant and place; SIDE and TURN are those of its size and angle."""


def sample_layout(
    config: SceneConfig,
    objects: FreeObjects,
    seed: int,
    indices: Tensor,
    background: Tensor | None = None,
) -> SceneLayout:
    """Sample the layouts of scenes.

    Args:
        config: distribution of the scenes, with the classes of ``objects``.
        objects: the set of objects.
        seed: any integer.
        indices: indices of the scenes, :math:`(B,)` int64, non-negative.
        background: colours of the backgrounds, :math:`(B, 3)` int64; default: random ones.
    """
    label, random_background, each = sample_objects(config, seed, indices)
    background = random_background if background is None else background
    empty = label < 0
    variant = objects.choose(label.clamp(min=0), each[..., VARIANT]).masked_fill(empty, 0)

    low = round(config.object_size[0] * config.size * shapes.UNIT / 2)
    high = max(low, round(config.object_size[1] * config.size * shapes.UNIT / 2))
    side = 2 * (low + counter_rng.below(each[..., SIDE], high - low + 1))
    side = side.masked_fill(empty, 0)
    turn = counter_rng.below(each[..., TURN], shapes.TURNS if config.rotate else 1)
    turn = turn.masked_fill(empty, 0)

    flat = (x.flatten() for x in (variant, side, turn))
    extents = objects.extents(*flat).unflatten(0, label.shape)  # (B, N, 4)
    positions = config.size * shapes.UNIT - extents[..., :2] - extents[..., 2:] + 1
    if config.places is None:
        offset = counter_rng.below(each[..., PLACE], positions)
    else:
        step = counter_rng.below(each[..., PLACE], config.places)
        offset = step * (positions - 1) // (config.places - 1)
    centre = extents[..., :2] + offset
    centre = centre.masked_fill(empty[..., None], 0)

    own = objects.palette.to(label.device)[variant]
    colour = colours(config, background, own, each[..., COLOUR])
    colour = colour.masked_fill(empty[..., None], 0)
    return SceneLayout(label, variant, centre, side, turn, colour, background)


def sample_objects(
    config: SceneConfig, seed: int, indices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample classes in depth order, backgrounds, and the random numbers of each slot.

    Returns:
        Labels :math:`(B, N)` with -1 after the last object, colours of the backgrounds
        :math:`(B, 3)`, and 32 random bits :math:`(B, N, 16)`; all int64.
    """
    slots = max(config.objects, len(config.classes))
    u = counter_rng.bits(seed, indices, _COLUMNS * (1 + slots)).unflatten(1, (1 + slots, _COLUMNS))
    scene, each = u[:, 0], u[:, 1:]
    label = _labels(config, scene, each)
    return label, _background(config, scene[:, _BACKGROUND]), each[:, : config.objects]


def further_bits(config: SceneConfig, seed: int, indices: Tensor, columns: int) -> Tensor:
    """Random numbers beyond those of :func:`sample_objects`.

    Returns:
        32 random bits of each slot and, last, of the scene: :math:`(B, N + 1, columns)` int64.
    """
    used = _COLUMNS * (1 + max(config.objects, len(config.classes)))
    rows = config.objects + 1
    u = counter_rng.bits(seed, indices, used + rows * columns)[:, used:]
    return u.unflatten(1, (rows, columns))


def frontmost(mask: Tensor) -> Tensor:
    """The frontmost object of each pixel, N for the background.

    Args:
        mask: amodal masks, front to back, :math:`(B, N, H, W)` bool.

    Returns:
        :math:`(B, H, W)` int64.
    """
    b, n, h, w = mask.shape
    front = torch.full((b, h, w), n, device=mask.device)
    for k in reversed(range(n)):
        front.masked_fill_(mask[:, k], k)
    return front


@cache
def channel_values(device: torch.device) -> Tensor:
    """The 256 values of a channel as float32; a table, as x / 255 differs between devices."""
    return (torch.arange(256, dtype=torch.float32) / 255).to(device)


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
    count = low + counter_rng.below(scene[:, _COUNT, None], n - low + 1)  # (B, 1)
    empty = torch.arange(n, device=scene.device) >= count
    # shuffle the objects; empty slots have the largest keys and stay behind
    depth = _ranks(each[:, :n, _DEPTH] + (empty.long() << 32))
    return label.masked_fill(empty, -1).gather(1, depth)


def _ranks(keys: Tensor) -> Tensor:
    """Permutations of the columns by random keys; the stable sort is the same on every device."""
    return torch.argsort(keys, dim=1, stable=True)


def _choose(config: SceneConfig, u: Tensor) -> Tensor:
    """Classes with probabilities proportional to their weights, from 32 random bits."""
    weights = config.class_weights or (1.0,) * len(config.classes)
    total, ends, acc = math.fsum(weights), [], 0.0
    for w in weights[:-1]:
        acc += w
        ends.append(round(acc / total * 2**32))
    return (u[..., None] >= torch.tensor(ends, dtype=torch.int64, device=u.device)).sum(-1)


def _background(config: SceneConfig, u: Tensor) -> Tensor:
    """Colours of the backgrounds, ``(B, 3)``, from random bits ``(B, 3)``."""
    if config.background == "black":
        return torch.zeros_like(u)
    if config.background == "grey":
        return counter_rng.below(u[:, :1], 256).expand(-1, 3)
    return counter_rng.below(u, 128 if config.background == "dark" else 256)


def colours(config: SceneConfig, background: Tensor, own: Tensor, u: Tensor) -> Tensor:
    """Colours of the objects.

    Args:
        config: distribution of the scenes.
        background: colours of the backgrounds, :math:`(B, 3)` int64.
        own: colours of the variants, :math:`(B, N, 3)` int64.
        u: 32 random bits per channel, :math:`(B, N, 3)` int64.

    Returns:
        :math:`(B, N, 3)` int64, 0 to 255.
    """
    if config.near_background is not None:
        return _near(background[:, None], config.near_background, u[..., 0])
    if config.kind == "random-colours":
        return 128 + counter_rng.below(u, 128)
    if config.kind == "multi-dsprites":
        return _from_hsv(u)
    if config.kind == "multi-dsprites-coloured":
        return counter_rng.below(u, 256)
    return own


def _from_hsv(u: Tensor) -> Tensor:
    """Colours of uniform hue (in steps of 1/1530 turn), saturation and value, ``(B, N, 3)``."""
    hue, saturation, value = (
        counter_rng.below(x, n) for x, n in zip(u.unbind(-1), (6 * 255, 256, 256), strict=True)
    )
    channels = []
    for shift in (5 * 255, 3 * 255, 255):  # red, green and blue are alike but for the hue
        k = (hue + shift) % (6 * 255)
        ramp = torch.minimum(k, 4 * 255 - k).clamp(0, 255)
        channels.append((value * (255 * 255 - saturation * ramp) + 255 * 255 // 2) // (255 * 255))
    return torch.stack(channels, -1)


def _near(background: Tensor, distance: int, u: Tensor) -> Tensor:
    """Uniform over the colours within a distance of the background's, excluding itself."""
    low = (background - distance).clamp(min=0)
    n = (background + distance).clamp(max=255) - low + 1  # (B, 1, 3): choices per channel
    own = background - low
    n_g, n_b = n[..., 1], n[..., 2]
    number = (own[..., 0] * n_g + own[..., 1]) * n_b + own[..., 2]
    pick = counter_rng.below(u, n.prod(-1) - 1)
    pick = pick + (pick >= number)  # skip the colour of the background
    return low + torch.stack([pick // (n_g * n_b), pick // n_b % n_g, pick % n_b], -1)
