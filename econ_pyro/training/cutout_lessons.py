"""Scenes of objects cut out of images where nothing touches them, from which attention learns.

Objects of several colours, or with thin strokes and blended edges, are no regions of like colour.
On a ground of one colour, though, whatever is not the ground and hangs together is an object, if
it is not several that touch. Where an image falls into as many parts as there can be objects,
each part is one; where it falls into fewer, the smallest most probably is. These objects are cut
out and pasted at random places, over one another and over the grounds of other images: scenes as
the images are, whose layers are known (copy-paste: Dwibedi et al., 2017, without labels).

Small objects come too often so, and some parts are two objects after all. What attention has
learnt from them tells: a part is one object if one region, grown in its image, covers it. A
second lesson has all parts of which that is so.

An edge is mixed with the ground that was behind it. Its colour is that of the neighbour which is
farthest from the ground, and its opacity how far it is on the way to that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.core.image_edge import background_colour, edge_pixels
from econ_pyro.errors import EconError
from econ_pyro.training.grouping import AT_ONCE, Layers, whole_number, without_slivers
from econ_pyro.training.shape_clusters import SMALLEST

DIFFERENT = 0.06  # of white: a channel's least difference between a figure and the ground
NOISE = 6.0  # median deviations of the image's border, which is ground: no figure differs by less
LEAST = 20  # objects of a lesson
COVERED = 0.85  # of the pixels of an object that is one


class Cutouts(NamedTuple):
    """Parts of images that hang together, and touch neither other parts nor the image's edge."""

    colour: Tensor
    """``(n, 3, S, S)``."""
    opacity: Tensor
    """``(n, S, S)``."""
    image: Tensor
    """Out of which image each is, ``(n,)``."""
    sure: Tensor
    """Whether its image falls into as many parts as there can be objects, or it is the smallest of
    two or more, ``(n,)`` bool."""
    ground: Tensor
    """Colour of each image's ground, ``(B, 3)``."""

    def some(self, which: Tensor) -> Cutouts:
        """Those of them, ``(n,)`` bool, with all grounds.

        Raises:
            EconError: they are too few to learn from.
        """
        if which.sum() < LEAST:
            raise EconError(
                f"at least {LEAST} objects which nothing touches, on one-coloured ground, in the "
                f"{len(self.ground)} images of recipe.grouping-images",
                str(int(which.sum())),
                "raise --recipe.grouping-images, or learn from --recipe.grouping-from textures or "
                "colour",
            )
        kept = {name: getattr(self, name)[which] for name in self._fields[:-1]}
        return self._replace(**kept)

    def scenes(self, most: int, count: int, generator: torch.Generator) -> Layers:
        """New scenes of one to so many of the objects each.

        Args:
            most: objects of a scene.
            count: number of scenes.
            generator: of random numbers.
        """
        scenes = [self._scene(most, generator) for _ in range(count)]
        image, labels = zip(*scenes, strict=True)
        return Layers(torch.stack(image), without_slivers(torch.stack(labels)))

    def _scene(self, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def draw(below: int) -> int:
            return whole_number(0, below - 1, generator)

        size = self.colour.shape[-1]
        labels = torch.zeros(size, size, dtype=torch.long)
        image = self.ground[draw(len(self.ground)), :, None, None].expand(-1, size, size)
        for i in range(1, 2 + draw(most)):
            own = draw(len(self.colour))
            colour, opacity = self.colour[own], self.opacity[own]
            shift = tuple(_moved(opacity.amax(axis), draw) for axis in (1, 0))
            opacity = opacity.roll(shift, (0, 1))
            image = image + opacity * (colour.roll(shift, (1, 2)) - image)
            labels[opacity > 0.5] = i
        if draw(2):  # half of the scenes are in other colours
            image = image[torch.randperm(3, generator=generator)]
        return image, labels


def _moved(there: Tensor, draw: Callable[[int], int]) -> int:
    """How far an object that is there along an axis, ``(S,)``, moves to a random place on it."""
    first, *_, last = [*there.nonzero().flatten().tolist()] * 2
    return draw(len(there) - (last - first)) - first


def cut_out(images: Tensor, most: int) -> Cutouts:
    """All parts of images that are not ground and touch no edge.

    Args:
        images: ``(B, 3, S, S)`` in [0, 1], on the CPU.
        most: objects of an image.
    """
    ground, near = _ground(images)
    figure = (images - ground[:, :, None, None]).abs().amax(1) > near[:, None, None]
    cut: list[tuple[Tensor, Tensor, int, bool]] = []
    eight = ndimage.generate_binary_structure(2, 2)  # neighbours of a pixel
    for i, there in enumerate(figure.numpy()):
        parts, n = ndimage.label(there, eight)
        area = np.bincount(parts.flatten(), minlength=n + 1)[1:]
        large = [part + 1 for part in np.argsort(area) if area[part] >= SMALLEST]
        for rank, part in enumerate(large):
            sure = len(large) == most or (len(large) > 1 and rank == 0)
            inside = torch.from_numpy(parts == part)
            if inside.sum() == inside[1:-1, 1:-1].sum():
                cut.append((*_matte(images[i], ground[i], inside), i, sure))
    if not cut:
        empty = images[:0]
        return Cutouts(empty, empty[:, 0], torch.zeros(0).long(), torch.zeros(0).bool(), ground)
    colour, opacity, image, all_sure = zip(*cut, strict=True)
    return Cutouts(
        torch.stack(colour),
        torch.stack(opacity),
        torch.tensor(image),
        torch.tensor(all_sure),
        ground,
    )


def _ground(images: Tensor) -> tuple[Tensor, Tensor]:
    """Colour of the ground, ``(B, 3)``, and how far its pixels may be from it, ``(B,)``."""
    ground = background_colour(images)
    deviation = (edge_pixels(images) - ground[:, :, None]).abs().amax(1).median(1).values
    return ground, (NOISE * deviation).clamp_min(DIFFERENT)


def _matte(image: Tensor, ground: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Colours, ``(3, S, S)``, and opacity, ``(S, S)``, of a part, ``(S, S)`` bool."""
    far = (image - ground[:, None, None]).square().sum(0).sqrt() * inside
    edge = inside & (F.max_pool2d((~inside)[None].float(), 3, 1, 1)[0] > 0)
    farthest, where = F.max_pool2d(far[None], 3, 1, 1, return_indices=True)
    beside = image.flatten(1)[:, where.flatten()].view_as(image)
    opacity = torch.where(edge, far / farthest[0].clamp_min(DIFFERENT), inside.to(far))
    return torch.where(edge, beside, image), opacity.clamp_max(1)


def covered(cutouts: Cutouts, regions: Callable[[Tensor], Tensor]) -> Tensor:
    """Of which one region covers all but a few pixels, ``(n,)`` bool.

    Args:
        cutouts: parts of images.
        regions: of the images of those numbers, ``(b, T, 1, S, S)``.
    """
    found = []
    for image, opacity in zip(
        cutouts.image.split(AT_ONCE), cutouts.opacity.split(AT_ONCE), strict=True
    ):
        own = opacity > 0.5  # (b, S, S)
        grown = regions(image)[:, :, 0].to(own.device) > 0.5
        shared = (grown & own[:, None]).sum((2, 3)).amax(1)
        found.append(shared > COVERED * own.sum((1, 2)))
    return torch.cat(found)
