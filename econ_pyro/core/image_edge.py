"""The edge of an image, most of which is ground."""

from __future__ import annotations

import torch
from torch import Tensor


def edge_pixels(images: Tensor) -> Tensor:
    """Pixels of each image's edge, side by side, ``(B, 3, n)``.

    Args:
        images: ``(B, 3, H, W)``.
    """
    return torch.cat([a[:, :, [0, -1]].flatten(2) for a in (images, images.mT)], 2)


def background_colour(images: Tensor) -> Tensor:
    """Median colour of each image's edge, ``(B, 3)``."""
    return edge_pixels(images).median(2).values
