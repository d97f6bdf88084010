"""Decompositions and ground truth that are made by hand."""

from types import SimpleNamespace

import torch

from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms

SIZE = 16
CLASSES = ("circle", "square", "triangle")
Box = tuple[int, int, int, int]


def box(top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def truth(labels: list[int], boxes: list[Box]) -> SimpleNamespace:
    """One scene of rectangles, front to back."""
    mask = torch.stack([box(*b) for b in boxes])
    free, region = torch.ones(SIZE, SIZE, dtype=torch.bool), []
    for m in mask:
        region.append(m & free)
        free = free & ~m
    return SimpleNamespace(
        label=torch.tensor([labels]), mask=mask[None], region=torch.stack(region)[None]
    )


def explained(boxes: list[Box | None], k: list[int], experts: int = 4) -> Decomposition:
    """A decomposition into rectangles, the last layer taking the rest; None is a full layer."""
    shape = torch.stack(
        [torch.ones(SIZE, SIZE, dtype=torch.bool) if b is None else box(*b) for b in boxes]
    )
    free, scope, region = torch.ones(SIZE, SIZE, dtype=torch.bool), [], []
    for m in [*shape[:-1], torch.ones_like(free)]:
        scope.append(free)
        region.append(m & free)
        free = free & ~m
    r, layers = torch.stack(region)[None, :, None].double(), len(boxes)
    mean = torch.linspace(0, 1, layers).double()[None, :, None, None, None]
    mean = mean.expand(1, -1, 3, SIZE, SIZE)
    return Decomposition(
        image=(r * mean).sum(1),
        k=torch.tensor([k]),
        scope=torch.stack(scope)[None, :, None].double(),
        region=r,
        mean=mean,
        shape=shape[None, :, None].double(),
        z=torch.zeros(1, layers, 2),
        terms=Terms(*(torch.full((1, layers), v) for v in (1.0, 2.0, 3.0))),
        competition_losses=torch.zeros(1, layers, experts),
        seed_pixel=torch.full((1, layers), -1),
    )


# Two overlapping objects, the first in front, and one apart: 36, 36 - 9 and 16 pixels are seen.
BOXES: list[Box] = [(1, 1, 7, 7), (4, 4, 10, 10), (11, 11, 15, 15)]
TRUE = truth([0, 1, 2], BOXES)


def made_up(batch: int = 2, layers: int = 3, size: int = 16) -> Decomposition:
    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(batch, *shape)

    region = rand(layers, 1, size, size).pow(4)
    return Decomposition(
        image=rand(3, size, size),
        k=torch.arange(layers).remainder(3).expand(batch, -1),
        scope=rand(layers, 1, size, size),
        region=region / (region.sum(1, keepdim=True) + 0.1),  # one layer alone is not all 1
        mean=rand(layers, 3, size, size),
        shape=rand(layers, 1, size, size),
        z=rand(layers, 2),
        terms=Terms(rand(layers), rand(layers), rand(layers)),
        competition_losses=rand(layers, 3),
        seed_pixel=torch.full((batch, layers), -1),
    )
