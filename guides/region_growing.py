r"""Regions that grow from a seed: a pixel and what is like it (as in GENESIS-V2's stick breaking).

A network that has to say at once which object it takes and where that ends is, at first, in two
minds about every object. A seed settles which: the pixel that is most salient in the scope, in the
middle of others that are. Of features phi that an expert's attention gives each pixel, its colour,
its place, and what is learnt of both, the logit of its region is

.. math:: g \left(4 - 20 \frac{d_i^2}{d_i^2 + 1/22}\right),
    \qquad d_i = \|\phi_i - \phi_{seed}\|,

so that objects come apart before anything is learnt, whatever their colours. A region always has
its seed in it: an expert that could refuse what is of no colour that it knows would have the same
seed come up again and again. The fall is never flat, and features can be drawn together from far.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.accel.compile import fused
from econ_pyro.core.compositing import (
    SCOPE_EPS,
    agreed,
    mean_over,
    next_scope,
    region,
    regions_of_shapes,
    scopes,
)

SALIENT = 4.0  # largest salience: a small bright thing is not worth more than an object
EVEN = 0.01  # squared distance below which colours hardly differ: a scope of one colour
MIDDLE = 4  # the surroundings of a pixel that count are the image's side over this, and one
GRADES = 1000.0  # by which pixels of salience 1 are told apart
START = 4.0  # of the logit over g: what is just like the seed
FALL = 20.0  # largest fall of the logit
NARROW = 22.0  # squared distances count by it: a region ends at a ninth of a channel


@torch.no_grad()
def salience(x: Tensor, s: Tensor) -> Tensor:
    """How far each pixel is from the scope's mean colour.

    Args:
        x: images, ``(n, 3, H, W)``.
        s: scope, ``(n, 1, H, W)``, nowhere 0.

    Returns:
        Squared distances over their mean, at most SALIENT, ``(n, 1, H, W)``.
    """
    distance = (x - mean_over(s, x)[:, :, None, None]).square().sum(1, keepdim=True)
    return (distance / (mean_over(s, distance)[:, :, None, None] + EVEN)).clamp_max(SALIENT)


def find_seed(x: Tensor, s: Tensor) -> Tensor:
    """The most salient pixel of the scope whose surroundings are salient too.

    Args:
        x: images, ``(n, 3, H, W)``.
        s: scope, ``(n, 1, H, W)``.

    Returns:
        Its index in the flattened image, ``(n,)`` int64.
    """
    s = s.clamp_min(SCOPE_EPS)
    here = s * salience(x, s)
    width = x.shape[-1] // MIDDLE // 2 * 2 + 1  # odd: a pixel has as much on either side
    around = _mean_about(_mean_about(here, width, 1), 1, width)
    # of one object's pixels many are as good: rounding errors are not to choose among them
    return (GRADES * here * around).round().flatten(1).argmax(1)


def _mean_about(values: Tensor, height: int, width: int) -> Tensor:
    """Means of boxes about the pixels: one side at a time is ``width / 2`` times as quick."""
    return F.avg_pool2d(values, (height, width), stride=1, padding=(height // 2, width // 2))


@fused
def grow(features: Tensor, seed: Tensor) -> Tensor:
    """Logits of the regions that grow from seeds.

    Args:
        features: of the attention, ``(n, 1 + D, H, W)``: g, then phi.
        seed: index of a pixel in the flattened image, ``(n,)``.

    Returns:
        ``(n, 1, H, W)``.
    """
    # lines of pixels, as in join_channels: the gradient of what is split is joined
    sharp, phi = features.flatten(2).split([1, features.shape[1] - 1], 1)
    at_seed = phi.gather(2, seed[:, None, None].expand(-1, phi.shape[1], 1))
    distance = (phi - at_seed).square().sum(1, keepdim=True)
    logits = sharp * (START - FALL * (1 - 1 / (1 + NARROW * distance)))
    return logits.unflatten(2, features.shape[2:])


@fused
def grow_all(features: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Scopes and regions of layers that grow from seeds, and of a last one that takes the rest.

    Args:
        features: of the attention of each layer but the last, ``(B, T - 1, 1 + D, H, W)``.
        seeds: index of a pixel in the flattened image, ``(B, T - 1)``.

    Returns:
        ``(B, T, 1, H, W)`` in [0, 1] each, front to back.
    """
    logits = grow(features.flatten(0, 1), seeds.flatten()).unflatten(0, seeds.shape)
    shares = logits.sigmoid()
    r = regions_of_shapes(torch.cat([shares, torch.ones_like(shares[:, :1])], 1))
    return scopes(r), r


@fused
def candidates(features: Tensor, x: Tensor, s_t: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Seeds of several objects, each in what the regions of those before it leave.

    Args:
        features: of every expert's attention, ``(B, K, 1 + D, H, W)``.
        x: images, ``(B, 3, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        n: number of seeds.

    Returns:
        Seeds ``(B, n)``, and the region that each expert grows from each, ``(B, n, K, 1, H, W)``.
    """
    experts, left, seeds, regions = features.shape[1], s_t, [], []
    for _ in range(n):
        seed = find_seed(x, left)
        logits = grow(features.flatten(0, 1), seed.repeat_interleave(experts))
        r = region(s_t[:, None], logits.sigmoid().unflatten(0, (-1, experts)))
        seeds.append(seed)
        regions.append(r)
        left = next_scope(left, agreed(r))
    return torch.stack(seeds, 1), torch.stack(regions, 1)
