r"""Layers at the full resolution of an image, from a decomposition at the size of the model.

Regions r, shapes m and appearances mu are upsampled bilinearly, inverting the crop or resizing
with which the model's input was made. At soft edges, the regions are refined with the pixels x of
the image: they act as the prior, and the likelihood is that of the model (Eq. 5),

.. math:: r'_t \propto r_t \, N(x | \mu_t, \sigma^2)

Otherwise a background layer would contain the outlines of the objects in front of it. Small
values of r' are set to 0. The alpha of each layer, front to back, is

.. math:: \alpha_t = r'_t / s'_t \text{ where } s'_t > 0, \quad m_t \text{ where it is hidden}

so that alpha compositing gives each layer the weight r' at each pixel. A layer has the colours of
the image where it is visible, and mu elsewhere. The composite is therefore the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from econ_pyro.core.compositing import next_scope
from econ_pyro.core.distributions import PixelNoise, pixel_errors
from econ_pyro.data.resize import Fit, crop_box
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.io.layer_files import layer_name, to_bytes
from econ_pyro.io.openraster import RasterLayer
from econ_pyro.io.rendering import RenderedScene
from econ_pyro.io.scene_file import Scene

MIN_WEIGHT = 0.1  # smaller weights of a layer at a pixel are set to 0
BAND = 1 << 20  # pixels processed at once; all of a photograph would take gigabytes
MIN_SCOPE = 1e-4  # a smaller scope has no effect on 8-bit values


def full_resolution_layers(
    picture: np.ndarray,
    d: Decomposition,
    scene: Scene,
    rendered: RenderedScene,
    names: Sequence[str],
    noise: PixelNoise,
    fit: Fit = "crop",
) -> list[RasterLayer]:
    """Compute the layers of an image at full resolution, front to back.

    Args:
        picture: the image, ``(H, W, 3)`` uint8, of any size.
        d: decomposition of the image at the size of the model.
        scene: scene of the decomposition.
        rendered: the rendered scene, which has the hidden parts.
        names: names of the experts.
        noise: of the pixels, the model's.
        fit: how the image was brought to the size of the model.
    """
    box = crop_box(picture.shape[1], picture.shape[0], fit)
    # pixels with their centre in the box
    left, top, right, bottom = (ceil(edge - 0.5) for edge in box)
    regions = _visible_regions(d, scene)
    pixels = np.empty((len(scene.layers), bottom - top, right - left, 4), np.uint8)
    rows = max(1, BAND // (right - left))
    for first in range(top, bottom, rows):
        window = (left, first, right, min(first + rows, bottom))
        inside = picture[window[1] : window[3], left:right]
        band = pixels[:, window[1] - top : window[3] - top]
        _compute_band(band, inside, regions, scene, rendered, box, window, noise)
    return [
        RasterLayer(layer_name(names[layer.expert], i + 1), pixels[i], left, top, layer.visible)
        for i, layer in enumerate(scene.layers)
    ]


def _compute_band(
    out: np.ndarray,
    inside: np.ndarray,
    regions: Tensor,
    scene: Scene,
    rendered: RenderedScene,
    box: tuple[float, float, float, float],
    window: tuple[int, int, int, int],
    noise: PixelNoise,
) -> None:
    """Compute the layers of the rows in ``window``, into ``out`` ``(T, H, W, 4)``."""
    x = torch.from_numpy(inside).permute(2, 0, 1) / 255
    means = [resample(mean, box, window) for mean in rendered.mean]
    weights = _thresholded(resample(regions, box, window))
    likelihood = torch.cat([-pixel_errors(x, mean[None], noise)[0] for mean in means])
    weights = _thresholded((weights.log() + likelihood).softmax(0))
    scope = torch.ones_like(weights[0])
    for i, (layer, weight) in enumerate(zip(scene.layers, weights, strict=True)):
        alpha = resample(rendered.shape[i], box, window)
        if layer.visible:
            visible = scope > MIN_SCOPE
            alpha[0][visible] = weight[visible] / scope[visible]
            scope = next_scope(scope, weight)
        out[i] = to_bytes(torch.cat([means[i], alpha]))
        seen = (weight > 0).numpy()
        out[i, seen, :3] = inside[seen]


def resample(
    x: Tensor, box: tuple[float, float, float, float], window: tuple[int, int, int, int]
) -> Tensor:
    """Resample a tensor at the size of the model to pixels of an image, bilinearly.

    Args:
        x: ``(C, h, w)``.
        box: left, top, right and bottom of ``x`` in the image, in its pixels.
        window: left, top, right and bottom of the output in the image.

    Returns:
        ``(C, bottom - top, right - left)``.
    """
    axes = []
    for low, high, first, last in zip(box[:2], box[2:], window[:2], window[2:], strict=True):
        centres = torch.arange(first, last, dtype=torch.float64) + 0.5
        axes.append(((centres - low) / (high - low) * 2 - 1).to(x.dtype))
    across, down = axes
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    return grid_sample(
        x[None], grid[None], "bilinear", padding_mode="border", align_corners=False
    )[0]


def _visible_regions(d: Decomposition, scene: Scene) -> Tensor:
    """Regions ``(T, h, w)``, normalised over the visible layers."""
    visible = torch.tensor([layer.visible for layer in scene.layers])
    region = d.region[0, :, 0] * visible[:, None, None]
    region[int(visible.nonzero()[-1])] += 1e-6  # the sum is 0 where only hidden layers were found
    return region / region.sum(0)


def _thresholded(weights: Tensor) -> Tensor:
    """Set small weights, ``(T, h, w)``, to 0 and normalise the others."""
    large = (weights - min(MIN_WEIGHT, 0.5 / len(weights))).clamp_min(0)
    return large / large.sum(0)
