r"""Layers of a picture in its own pixels, from a decomposition at the model's size.

Regions r, shapes m and appearances mu are brought to the picture's pixels, bilinearly, through
the same crop or stretch by which the model saw it. At the soft edges the picture x decides: the
regions are the prior, and the likelihood is the model's own (Eq. 5),

.. math:: r'_t \propto r_t \, N(x | \mu_t, \sigma^2)

Without this a background keeps a rim of what stood before it. Small shares are cut off: what is
hidden is hidden. Then, front to back,

.. math:: \alpha_t = r'_t / s'_t \text{ where } s'_t > 0, \quad m_t \text{ where it is hidden}

so that layers laid one over the other weigh exactly r' at each pixel. A layer has the picture's
own colour where anything is seen of it, mu elsewhere: together they give the picture back.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from econ_pyro.core.compositing import next_scope
from econ_pyro.data.images import Fit, crop_box
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.io.layer_files import layer_name, to_bytes
from econ_pyro.io.openraster import RasterLayer
from econ_pyro.io.rendering import Rendered
from econ_pyro.io.scene_file import Scene

SMALL_SHARE = 0.1  # a layer with less of a pixel is not seen there
BAND = 1 << 20  # pixels at a time: in floats, a photograph's layers would take gigabytes
SCOPE_LEFT = 1e-4  # below it nothing is left to see: no byte of a picture could tell


def full_layers(
    picture: np.ndarray,
    d: Decomposition,
    scene: Scene,
    rendered: Rendered,
    names: Sequence[str],
    fit: Fit = "crop",
    sigma: float = 0.1,
) -> list[RasterLayer]:
    """The layers of one picture, front to back, placed on a canvas of the picture's size.

    Args:
        picture: ``(H, W, 3)`` uint8, of any size.
        d: of this picture alone, as the model saw it.
        scene: that was found in it.
        rendered: the same painted, for the hidden parts.
        names: of the experts.
        fit: how the picture was brought to the model's size.
        sigma: of a pixel, the model's sigma_x.
    """
    box = crop_box(picture.shape[1], picture.shape[0], fit)
    # pixels whose centres lie in the box
    left, top, right, bottom = (ceil(edge - 0.5) for edge in box)
    shown = _shown(d, scene)
    pixels = np.empty((len(scene.layers), bottom - top, right - left, 4), np.uint8)
    rows = max(1, BAND // (right - left))
    for first in range(top, bottom, rows):
        window = (left, first, right, min(first + rows, bottom))
        inside = picture[window[1] : window[3], left:right]
        band = pixels[:, window[1] - top : window[3] - top]
        _paint(band, inside, shown, scene, rendered, box, window, sigma)
    return [
        RasterLayer(layer_name(names[layer.expert], i + 1), pixels[i], left, top, layer.visible)
        for i, layer in enumerate(scene.layers)
    ]


def _paint(
    out: np.ndarray,
    inside: np.ndarray,
    shown: Tensor,
    scene: Scene,
    rendered: Rendered,
    box: tuple[float, float, float, float],
    window: tuple[int, int, int, int],
    sigma: float,
) -> None:
    """The layers of some rows of a picture, into ``(T, H, W, 4)``."""
    x = torch.from_numpy(inside).permute(2, 0, 1) / 255
    means = [resample(mean, box, window) for mean in rendered.mean]
    shares = _cut(resample(shown, box, window))
    likelihood = torch.stack([-((x - mean) ** 2).sum(0) / (2 * sigma**2) for mean in means])
    shares = _cut((shares.log() + likelihood).softmax(0))
    left_over = torch.ones_like(shares[0])
    for i, (layer, share) in enumerate(zip(scene.layers, shares, strict=True)):
        alpha = resample(rendered.shape[i], box, window)
        if layer.visible:
            visible = left_over > SCOPE_LEFT
            alpha[0][visible] = share[visible] / left_over[visible]
            left_over = next_scope(left_over, share)
        out[i] = to_bytes(torch.cat([means[i], alpha]))
        seen = (share > 0).numpy()
        out[i, seen, :3] = inside[seen]


def resample(
    x: Tensor, box: tuple[float, float, float, float], window: tuple[int, int, int, int]
) -> Tensor:
    """Bring what the model sees to a picture's pixels, bilinearly.

    Args:
        x: ``(C, h, w)``.
        box: left, top, right and bottom of ``x`` on the picture, in its pixels.
        window: the same of the pixels wanted.

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


def _shown(d: Decomposition, scene: Scene) -> Tensor:
    """Regions of the shown layers alone, ``(T, h, w)``; they sum to 1."""
    shown = torch.tensor([layer.visible for layer in scene.layers])
    region = d.region[0, :, 0] * shown[:, None, None]
    region[int(shown.nonzero()[-1])] += 1e-6  # where only layers that are not shown were seen
    return region / region.sum(0)


def _cut(shares: Tensor) -> Tensor:
    """Shares of pixels, ``(T, h, w)``, without the small ones; they sum to 1."""
    large = (shares - min(SMALL_SHARE, 0.5 / len(shares))).clamp_min(0)
    return large / large.sum(0)
