"""Places: what the first two latents mean to a decoder that draws about one, and its encoder.

Coordinates run from -1 to 1 over the image, (y, x). A latent z stands for the place PLACE z, so
that the prior N(0, I) spreads objects over the image and seldom beyond it.
"""

from __future__ import annotations

import torch
from torch import Tensor

PLACE = 0.35  # uniform places up to 0.6 (whole objects in the image) have a variance near 0.35^2
UNIT = 0.3  # about an object's radius: its edge lies near 1


def coordinates(size: int) -> Tensor:
    """Coordinates of the pixels, ``(1, 2, size, size)``: y and x in [-1, 1]."""
    axis = torch.linspace(-1, 1, size)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None]


def about(z: Tensor, grid: Tensor) -> Tensor:
    """What a decoder sees about a place: coordinates from there, and a bump around it.

    Args:
        z: the two latents of a place, ``(n, 2)``.
        grid: :func:`coordinates`.

    Returns:
        ``(n, 3, H, W)``.
    """
    away = (grid - PLACE * z[:, :, None, None]) / UNIT
    return torch.cat([away, (-0.5 * away.square().sum(1, keepdim=True)).exp()], 1)


def centre(r: Tensor, grid: Tensor) -> Tensor:
    """Latents of the place where a region has its centre of mass, ``(n, 2)``.

    Args:
        r: region, ``(n, 1, H, W)``, nowhere 0.
        grid: :func:`coordinates`.
    """
    return (r * grid).sum((2, 3)) / r.sum((2, 3)) / PLACE
