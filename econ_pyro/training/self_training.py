"""Lessons of the model's own decompositions, from which attention learns: pseudo-labels.

What attention learns first is from scenes put together for it
(:mod:`econ_pyro.training.grouping`), whose objects are not the images'. Refinement
(:mod:`econ_pyro.infer.refinement`) makes of what attention proposes regions that are better, of
images as they are, even with experts that have learnt nothing yet: each layer then has a colour,
a covariance and features of its own. Pixels that belong to one layer almost surely become labels,
from which attention learns, and what it proposes gets better. It is self-training (Scudder, 1965;
pseudo-labels: Lee, 2013) with the E-step as the teacher. Some scenes of the first lesson stay in
every batch, as their labels are true.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.training.grouping import SEEDS, Layers, Lesson, without_slivers

SURE = 0.8  # share of a pixel that its layer has, if that is to be its label
OWN = 0.75  # share of a lesson's scenes that are the model's own images
AT_ONCE = 1024  # images
LEAST = 8  # images of a lesson


def pseudo_labels(region: Tensor) -> Tensor:
    """The layer of each pixel that is almost surely of one, as of :class:`Layers`.

    Layers of a few pixels are unknown, as in scenes put together.

    Args:
        region: soft regions front to back, the background's last, ``(B, T, 1, H, W)``.

    Returns:
        ``(B, H, W)`` int64.
    """
    most, layer = region[:, :, 0].max(1)
    labels = torch.where(most > SURE, (layer + 1) % region.shape[1], -1)
    return without_slivers(labels)


def self_training(images: Tensor, regions: Callable[[Tensor], Tensor], first: Lesson) -> Lesson:
    """A lesson of the model's own regions, and of a first lesson.

    Args:
        images: training images, ``(B, 3, H, W)`` in [0, 1].
        regions: takes them apart, ``(B, 3, H, W)`` to ``(B, T, 1, H, W)``.
        first: the first lesson.

    Raises:
        EconError: hardly any pixel is almost surely of one layer.
    """
    labels = [pseudo_labels(regions(some)).cpu() for some in images.split(AT_ONCE)]
    own = Layers(images.float().cpu(), torch.cat(labels))
    known = (own.labels >= 0).flatten(1).sum(1) >= SEEDS
    if known.sum() < LEAST:
        raise EconError(
            f"at least {LEAST} images in which pixels are surely of one layer",
            f"{int(known.sum())} of {len(images)}",
            "raise --recipe.self-training-images or --recipe.grouping-steps, or set "
            "--recipe.self-training-images 0",
        )
    return partial(_mixed, Layers(own.image[known], own.labels[known]), first)


def _mixed(own: Layers, first: Lesson, n: int, generator: torch.Generator) -> Layers:
    many = round(OWN * n)
    pairs = zip(own.some(many, generator), first(n - many, generator), strict=True)
    return Layers(*(torch.cat(pair) for pair in pairs))
