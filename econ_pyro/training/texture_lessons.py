"""Scenes of leaves with textures out of training images, from which attention learns to group.

Where ground and objects have textures, no colour tells objects apart, so that there is nothing to
learn grouping from (:mod:`econ_pyro.training.grouping`) but what is known by construction. A
small square of a training image, repeated in mirrored tiles, is a texture of much the same
statistics as the images'. Convex leaves at random places, each with a texture of its own, are laid
over one another and over a ground, which has one, too (a dead leaves model). Squares that have the
edge of an object in them are no mistake: they are textures that no image has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from econ_pyro.training.grouping import Layers, whole_number, without_slivers

TILES = (3 / 16, 3 / 8)  # smallest and largest square of an image, of its side
RADII = (0.12, 0.28)  # of leaves, of the side
CORNERS = (3, 8)  # of a leaf; of 8, it is a disc
WOBBLE = 0.3  # of the angle between two sides
NEAREST = 0.5  # side of a leaf, of its radius
WITHIN = 1.3  # its farthest corner, likewise
INSIDE = 0.1  # distance of a leaf's middle from the edge of the image, of its side


def textured_leaves(images: Tensor, leaves: int, count: int, generator: torch.Generator) -> Layers:
    """Scenes of leaves with textures out of images.

    Args:
        images: ``(n, 3, S, S)`` in [0, 1], on the CPU.
        leaves: at most so many lie on the ground, at least one.
        count: number of scenes.
        generator: of random numbers.
    """
    scenes = [_scene(images, leaves, generator) for _ in range(count)]
    image, labels = zip(*scenes, strict=True)
    return Layers(torch.stack(image), without_slivers(torch.stack(labels)))


def _scene(images: Tensor, leaves: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    size = images.shape[-1]
    image, labels = _texture(images, generator), torch.zeros(size, size, dtype=torch.long)
    for leaf in range(1, 1 + whole_number(1, leaves, generator)):
        inside = _leaf(size, generator)
        image = torch.where(inside, _texture(images, generator), image)
        labels[inside] = leaf
    return image, labels


def _texture(images: Tensor, generator: torch.Generator) -> Tensor:
    """A square of an image in mirrored tiles, turned, half of the time in other colours."""
    size = images.shape[-1]
    least, most = (max(1, round(size * tile)) for tile in TILES)
    side = whole_number(least, most, generator)
    image = images[whole_number(0, len(images) - 1, generator)]
    y, x, dy, dx = (
        whole_number(0, most, generator) for most in (size - side,) * 2 + (2 * side - 1,) * 2
    )
    at = torch.arange(size)
    rows, columns = (((at + shift) % (2 * side) - side).add(0.5).abs().sub(0.5).long()
                     for shift in (dy, dx))  # fmt: skip
    tiled = image[:, y + rows[:, None], x + columns]
    tiled = torch.rot90(tiled, whole_number(0, 3, generator), (1, 2))
    if whole_number(0, 1, generator):
        tiled = tiled[torch.randperm(3, generator=generator)]
    return tiled


def _leaf(size: int, generator: torch.Generator) -> Tensor:
    """A convex polygon or a disc, ``(S, S)`` bool."""
    place, radius = torch.rand(2, generator=generator), torch.rand((), generator=generator)
    y0, x0 = ((INSIDE + (1 - 2 * INSIDE) * place) * size).tolist()
    r = size * (RADII[0] + (RADII[1] - RADII[0]) * radius.item())
    at = torch.arange(size) + 0.5
    y, x = at[:, None] - y0, at - x0
    corners = whole_number(*CORNERS, generator)
    if corners == CORNERS[1]:
        return y.square() + x.square() < r**2
    sides = torch.arange(corners) + WOBBLE * torch.rand(corners, generator=generator)
    angles = 2 * math.pi * (sides / corners + torch.rand(1, generator=generator))
    far = r * (NEAREST + (1 - NEAREST) * torch.rand(corners, generator=generator))
    along = angles.sin()[:, None, None] * y + angles.cos()[:, None, None] * x
    within = y.square() + x.square() < (WITHIN * r) ** 2
    return (along < far[:, None, None]).all(0) & within
