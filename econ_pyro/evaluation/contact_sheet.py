"""Contact sheets: images of a dataset with their masks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.data.base import Source
from econ_pyro.data.ground_truth import Truth
from econ_pyro.evaluation.data_report import downsample, sample_indices
from econ_pyro.viz import panels

_COLUMNS, _ROWS = 8, 4
_PANEL = 96  # width of an image on the sheet in pixels


def contact_sheet(source: Source, size: int) -> Image.Image:
    """Draw evenly spaced images, each above its masks if there are any.

    Args:
        source: the images.
        size: size in pixels to which the images are downsampled.
    """
    indices = sample_indices(len(source), _COLUMNS * _ROWS)
    scenes = source.scenes(indices)
    images = source.images(indices) if scenes is None else scenes.image
    tiles, labels = [], []
    for part in torch.arange(len(indices)).split(_COLUMNS):
        row = part.tolist()
        labels.append(panels.Label(f"{int(indices[row[0]])} to {int(indices[row[-1]])}"))
        tiles.append([_panel(images[i], size) for i in row])
        if scenes is not None:
            labels.append(panels.Label("masks"))
            tiles.append([_panel(_mask_overlay(scenes, i), size) for i in row])
    return panels.framed(panels.grid(tiles, labels))


def _panel(image: Tensor, size: int) -> np.ndarray:
    small = downsample(image, size)
    return panels.panel(small, panels.scale_for(small.shape[-1], _PANEL))


def _mask_overlay(scenes: Truth, i: int) -> Tensor:
    """Visible regions, each in its own colour, over the image in grey, ``(3, H, W)``."""
    out = scenes.image[i].mean(0, keepdim=True).expand(3, -1, -1) * 0.4 + 0.5
    for n, region in enumerate(scenes.region[i]):
        colour = torch.tensor(panels.expert_colour(n)).view(3, 1, 1) / 255
        out = torch.where(region, 0.25 * out + 0.75 * colour, out)
    return out
