r"""Which pixels are alike, by features that attention gives each of them.

Pixels belong together as far as their features phi are near each other. The logit that a pixel is
of a group is

.. math:: g \left(4 - 20 \frac{d_i^2}{d_i^2 + 1/22}\right),
    \qquad d_i = \|\phi_i - \phi\|,

where phi is that of a seed from which a region grows, or the mean of the group. It has a gradient
everywhere, so that features can move together from far apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.core.compositing import SCOPE_EPS

START = 4.0  # logit over g of a pixel equal to the middle
FALL = 20.0  # largest fall of the logit
NARROW = 22.0  # weight of squared distances: a region ends at a ninth of a channel
NEAR = START / (FALL - START) / NARROW  # the squared distance at which it ends


def logits_around(middle: Tensor, features: Tensor) -> Tensor:
    """Logits of the regions of all pixels whose features are near given ones.

    Args:
        middle: those, phi, ``(n, D)``.
        features: of the attention, ``(n, 1 + D, H, W)``: g, then phi.

    Returns:
        ``(n, 1, H, W)``.
    """
    sharp, phi = features.split([1, features.shape[1] - 1], 1)
    distance = (phi - middle[..., None, None]).square().sum(1, keepdim=True)
    return sharp * (START - FALL * (1 - 1 / (1 + NARROW * distance)))


def logits_of_layers(features: Tensor, r: Tensor) -> Tensor:
    """Logits that each pixel is like the mean of each layer; 0 for layers without a region.

    Args:
        features: of the attention, ``(B, 1 + D, H, W)``: g, then phi.
        r: regions, ``(B, T, 1, H, W)``.

    Returns:
        ``(B, T, 1, H, W)``.
    """
    slots = r.shape[1]
    mean, area = _means(features, r)
    logits = logits_around(mean.flatten(0, 1), features.repeat_interleave(slots, 0))
    return torch.where(area[..., None, None] > 0, logits.unflatten(0, (-1, slots)), 0.0)


def like_last(features: Tensor, r: Tensor) -> Tensor:
    """Which layers a region that grows from the last one's mean features would have in it.

    Args:
        features: of the attention, ``(B, 1 + D, H, W)``: g, then phi.
        r: regions, ``(B, T, 1, H, W)``.

    Returns:
        ``(B, T)`` bool; never the last one, nor one without a region.
    """
    mean, area = _means(features, r)
    like = ((mean - mean[:, -1:]).square().sum(2) < NEAR) & (area[..., 0] > 0)
    like[:, -1] = False
    return like


def _means(features: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Of the phi of each region, ``(B, T, D)``, and how many pixels it has, ``(B, T, 1)``."""
    phi, shares = features[:, 1:].flatten(2), r.flatten(2)
    area = shares.sum(2, keepdim=True)
    return shares @ phi.mT / area.clamp_min(SCOPE_EPS), area
