"""What objects and edges of a dataset are like: turned, shaded, noisy, blended, numerous.

All are measured on a sample of the images, and with masks and classes where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.core.image_edge import background_colour, edge_pixels
from econ_pyro.data.ground_truth import Truth
from econ_pyro.data.resize import has_hard_edges
from econ_pyro.evaluation.matching import MIN_AREA

TOLERANCE = 0.03  # per channel; larger than compression artefacts of a constant colour
_ANGLES = 24
_GRID = 24  # pixels of a mask that is brought to one place and size
_REFERENCES = 3  # objects of a class to which the others are compared
_MOST_OBJECTS = 60  # of a class that are compared
_CONTRAST = 0.1  # colours of an edge differ by more


@dataclass(frozen=True)
class Traits:
    """Properties of the images of a dataset; shares are in [0, 1]."""

    hard_edges: float
    """Share of images of few exact colours with hard edges (``resize.has_hard_edges``)."""
    blended: float
    """Share of edge pixels whose colour lies between those of their neighbours."""
    shading: float
    """Share of neighbouring foreground pixels that differ slightly, less that of the rest."""
    noise: float
    """Share of neighbouring background pixels that differ slightly."""
    plain: float
    """Share of edge pixels of an image that have the colour of the background."""
    colours: float
    """Exact colours beside the background's by connected foreground area, median over images."""
    lit: float
    """Relative spread of the brightness along an image's edge, less twice that of its chromaticity
    and four times the mean step from pixel to pixel; median over images."""
    components: int
    """Largest number of connected foreground areas in an image."""


def traits_of(images: Tensor) -> Traits:
    """Measure a sample of images, ``(B, 3, H, W)`` in [0, 1]."""
    background = background_colour(images)[:, :, None, None]
    difference = (images - background).abs().amax(1)
    foreground = difference > TOLERANCE
    slight = _slight(images)
    rest = ~foreground
    noise = _mean(slight[rest])
    border = torch.zeros_like(foreground)
    border[:, [0, -1]] = border[:, :, [0, -1]] = True
    arrays = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    areas = [_components(f) for f in foreground.numpy()]
    colours = [len(np.unique(array.reshape(-1, 3), axis=0)) - 1 for array in arrays]
    each = [number / max(1, n) for number, n in zip(colours, areas, strict=True)]
    hard = [has_hard_edges(Image.fromarray(array)) for array in arrays]
    return Traits(
        hard_edges=sum(hard) / max(1, len(hard)),
        blended=_blended(images),
        shading=_mean(slight[foreground]) - noise,
        noise=noise,
        plain=_mean(difference[border] <= 2 * TOLERANCE),
        colours=median(each) if each else 0.0,
        lit=_lit(images),
        components=max(areas, default=0),
    )


def _lit(images: Tensor) -> float:
    edge = edge_pixels(images)
    value = edge.amax(1)
    steps = value.diff(dim=1).abs().mean(1)
    brightness = (value.std(1) - 4 * steps) / (value.mean(1) + TOLERANCE)
    chromaticity = (edge / (value[:, None] + TOLERANCE)).std(2).mean(1)
    return (brightness - 2 * chromaticity).median().item() if len(images) else 0.0


def turning(scenes: list[Truth]) -> tuple[float, float] | None:
    """How masks of a class agree, each brought to one place and size.

    Args:
        scenes: batches of scenes. Whole masks are compared, or visible ones if they are unknown.

    Returns:
        Median IoU with another object of the class as they are, and at the best of 24 angles, of
        the class that turning makes most alike; None without classes or with one object of each.
    """
    by_class: dict[int, list[Tensor]] = {}
    for truth in scenes:
        if truth.label is None:
            return None
        masks = truth.region if truth.mask is None else truth.mask
        cut = masks[..., [0, -1], :].flatten(2).any(2) | masks[..., [0, -1]].flatten(2).any(2)
        for b, n in torch.nonzero((truth.label >= 0) & ~cut & masks.flatten(2).any(2)).tolist():
            found = by_class.setdefault(int(truth.label[b, n]), [])
            if len(found) < _MOST_OBJECTS:
                found.append(_normalised(masks[b, n]))
    pairs = [_agreement(torch.stack(found)) for found in by_class.values() if len(found) > 1]
    return max(pairs, key=lambda pair: pair[1] - pair[0], default=None)


def _agreement(shapes: Tensor) -> tuple[float, float]:
    """IoU with the reference that fits best, unturned and turned; ``shapes`` (n, G, G)."""
    best = (0.0, 0.0)
    for reference in shapes[:_REFERENCES]:
        angles = torch.arange(_ANGLES) * (2 * torch.pi / _ANGLES)
        turned = _rotated(reference, angles).flatten(1)  # (A, G * G)
        flat = shapes.flatten(1)
        both = torch.minimum(flat[:, None], turned).sum(2)
        iou = both / torch.maximum(flat[:, None], turned).sum(2)  # (n, A)
        found = median(iou[:, 0].tolist()), median(iou.amax(1).tolist())
        best = max(best, found, key=lambda pair: pair[1])
    return best


def _normalised(mask: Tensor) -> Tensor:
    """A mask with its centre of mass in the middle and one area, ``(G, G)`` in [0, 1]."""
    y, x = torch.nonzero(mask, as_tuple=True)
    height, width = mask.shape
    radius = 1.4 * len(y) ** 0.5  # half the side of the window
    axis = (torch.arange(_GRID) + 0.5) / _GRID * 2 - 1
    across = (x.double().mean() + 0.5 + axis * radius) / width * 2 - 1
    down = (y.double().mean() + 0.5 + axis * radius) / height * 2 - 1
    grid = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1).float()
    return F.grid_sample(mask.float()[None, None], grid[None], align_corners=False)[0, 0]


def _rotated(shape: Tensor, angles: Tensor) -> Tensor:
    """A shape at each angle, ``(A, G, G)``."""
    zero = torch.zeros_like(angles)
    rows = [angles.cos(), -angles.sin(), zero, angles.sin(), angles.cos(), zero]
    grid = F.affine_grid(
        torch.stack(rows, 1).unflatten(1, (2, 3)), [len(angles), 1, _GRID, _GRID],
        align_corners=False,
    )  # fmt: skip
    return F.grid_sample(shape.expand(len(angles), 1, -1, -1), grid, align_corners=False)[:, 0]


def _slight(images: Tensor) -> Tensor:
    """Pixels that differ a little from the next one to the right or below, ``(B, H, W)`` bool."""
    out = torch.zeros_like(images[:, 0], dtype=torch.bool)
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().amax(1)
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().amax(1)
    out[:, :, :-1] |= (across > 0) & (across <= 2 * TOLERANCE)
    out[:, :-1] |= (down > 0) & (down <= 2 * TOLERANCE)
    return out


def _blended(images: Tensor) -> float:
    """Share of the pixels between two colours of an edge that mix them."""
    edges = mixed = 0
    for turned in (images, images.mT):
        left, here, right = turned[..., :-2], turned[..., 1:-1], turned[..., 2:]
        step = right - left
        edge = step.abs().amax(1) > _CONTRAST
        share = ((here - left) * step).sum(1) / step.square().sum(1).clamp_min(1e-6)
        off = (here - left - share[:, None] * step).abs().amax(1)
        mixture = edge & (share > 0.1) & (share < 0.9) & (off <= 0.02)
        edges, mixed = edges + int(edge.sum()), mixed + int(mixture.sum())
    return mixed / max(1, edges)


def _components(foreground: np.ndarray) -> int:
    """Number of connected areas that are large enough for a present layer."""
    labels, number = ndimage.label(foreground)
    areas = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    return int((areas >= max(1, round(MIN_AREA / 4 * foreground.size))).sum())


def _mean(values: Tensor) -> float:
    return values.float().mean().item() if values.numel() else 0.0
