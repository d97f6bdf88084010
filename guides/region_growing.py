r"""Regions that grow from a seed pixel over similar pixels (as in GENESIS-V2's stick breaking).

Attention must choose an object and delineate it at the same time. A seed settles the choice: the
most salient pixel of the scope that lies among other salient ones. An expert's attention gives
each pixel features phi: its colour, its position, and learnt ones. The region has the pixels whose
features are near the seed's (:func:`~econ_pyro.core.pixel_features.logits_around`), so that
objects separate before anything is learnt, whatever their colours. A region always contains its
seed: if experts could refuse a seed, the same one would be chosen again and again.

Where regions are to be connected, pixels that no path of pixels like the seed connects with it
have the lowest logit. Position need then not tell objects of one colour apart, and the far end of
a long object is its own.

One pixel is no good measure of an object with noise or texture. With *shifts* (mean shift:
Fukunaga and Hostetler, 1975), the mean phi of the region that grows from the seed takes the place
of the seed's, so many times, but never so far that the seed would be left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.accel.compile import compilable
from econ_pyro.core.compositing import (
    SCOPE_EPS,
    mean_over,
    median_region,
    next_scope,
    region,
    regions_of_shapes,
    scopes,
)
from econ_pyro.core.pixel_features import FALL, NEAR, START, logits_around

SALIENT = 4.0  # largest salience: a small bright spot counts no more than an object
EVEN = 0.01  # squared distance below which colours hardly differ: a scope of one colour
MIDDLE = 4  # a pixel's neighbourhood is a box of the image's side divided by this
GRADES = 1000.0  # saliences are rounded to this many levels


@torch.no_grad()
def salience(x: Tensor, s: Tensor) -> Tensor:
    """How far each pixel is from the scope's mean colour, or mean features.

    Args:
        x: images, or features, ``(n, C, H, W)``.
        s: scope, ``(n, 1, H, W)``, nowhere 0.

    Returns:
        Squared distances over their mean, at most SALIENT, ``(n, 1, H, W)``.
    """
    distance = (x - mean_over(s, x)[:, :, None, None]).square().sum(1, keepdim=True)
    return (distance / (mean_over(s, distance)[:, :, None, None] + EVEN)).clamp_max(SALIENT)


def find_seed_pixel(x: Tensor, s: Tensor) -> Tensor:
    """The most salient pixel of the scope whose neighbourhood is salient too.

    Args:
        x: images, or features, ``(n, C, H, W)``.
        s: scope, ``(n, 1, H, W)``.

    Returns:
        Its index in the flattened image, ``(n,)`` int64.
    """
    s = s.clamp_min(SCOPE_EPS)
    here = s * salience(x, s)
    width = x.shape[-1] // MIDDLE // 2 * 2 + 1  # odd: a pixel has as much on either side
    around = _box_mean(_box_mean(here, width, 1), 1, width)
    # many pixels of an object are equally good: rounding errors must not choose among them
    return (GRADES * here * around).round().flatten(1).argmax(1)


def _box_mean(values: Tensor, height: int, width: int) -> Tensor:
    """Means of boxes around the pixels; one axis at a time is ``width / 2`` times as fast."""
    return F.avg_pool2d(values, (height, width), stride=1, padding=(height // 2, width // 2))


@compilable
def grow(features: Tensor, seed: Tensor, connected: bool = False, shifts: int = 0) -> Tensor:
    """Logits of the regions that grow from seeds.

    Args:
        features: of the attention, ``(n, 1 + D, H, W)``: g, then phi.
        seed: index of a pixel in the flattened image, ``(n,)``.
        connected: whether regions are connected.
        shifts: number of mean shifts.

    Returns:
        ``(n, 1, H, W)``.
    """
    phi = features[:, 1:]
    index = seed[:, None, None].expand(-1, phi.shape[1], 1)
    middle = at_seed = phi.flatten(2).gather(2, index)[..., 0]
    logits = _part_with(logits_around(middle, features), features, seed, connected)
    for _ in range(shifts):
        # the seed, too: where rounding leaves it out, a connected region is empty
        inside = (logits > 0).flatten(1).scatter(1, seed[:, None], True).view_as(logits)
        moved = mean_over(inside.to(phi), phi)
        near = (moved - at_seed).square().sum(1, keepdim=True) < NEAR
        middle = torch.where(near, moved, middle)
        logits = _part_with(logits_around(middle, features), features, seed, connected)
    return logits


def _part_with(logits: Tensor, features: Tensor, seed: Tensor, connected: bool) -> Tensor:
    """Without what is not connected with the seeds, if regions are connected."""
    if not connected:
        return logits
    return torch.where(reachable(logits > 0, seed), logits, features[:, :1] * (START - FALL))


@torch.no_grad()
def reachable(there: Tensor, seed: Tensor) -> Tensor:
    """Pixels that paths of side-by-side pixels connect with seeds (a flood fill).

    Paths have at most H + W steps: each step takes all neighbours at once, and only a region that
    winds through the whole image is longer.

    Args:
        there: pixels that paths may use, ``(n, 1, H, W)`` bool.
        seed: index of a pixel in the flattened image, ``(n,)``.

    Returns:
        ``(n, 1, H, W)`` bool.
    """
    start = torch.zeros_like(there.flatten(1)).scatter(1, seed[:, None], True)
    found = start.view_as(there) & there
    for _ in range(sum(there.shape[2:])):
        wide = F.pad(found, (1, 1, 1, 1))
        beside = wide[:, :, :-2, 1:-1] | wide[:, :, 2:, 1:-1]
        found = there & (found | beside | wide[:, :, 1:-1, :-2] | wide[:, :, 1:-1, 2:])
    return found


@compilable
def grow_all(
    features: Tensor, seeds: Tensor, connected: bool = False, shifts: int = 0
) -> tuple[Tensor, Tensor]:
    """Scopes and regions of layers that grow from seeds, and of a last one that takes the rest.

    Args:
        features: of the attention of each layer but the last, ``(B, T - 1, 1 + D, H, W)``.
        seeds: index of a pixel in the flattened image, ``(B, T - 1)``.
        connected: whether regions are connected.
        shifts: number of mean shifts.

    Returns:
        ``(B, T, 1, H, W)`` in [0, 1] each, front to back.
    """
    logits = grow(features.flatten(0, 1), seeds.flatten(), connected, shifts)
    shares = logits.unflatten(0, seeds.shape).sigmoid()
    r = regions_of_shapes(torch.cat([shares, torch.ones_like(shares[:, :1])], 1))
    return scopes(r), r


@compilable
def candidates(
    features: Tensor, x: Tensor, s_t: Tensor, n: int, connected: bool = False, shifts: int = 0
) -> tuple[Tensor, Tensor]:
    """Seeds of several objects, each in what the regions of those before it leave.

    Args:
        features: of every expert's attention, ``(B, K, 1 + D, H, W)``.
        x: of what seeds are salient: images, or features, ``(B, C, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        n: number of seeds.
        connected: whether regions are connected.
        shifts: number of mean shifts.

    Returns:
        Seeds ``(B, n)``, and the region that each expert grows from each, ``(B, n, K, 1, H, W)``.
    """
    experts, left, seeds, regions = features.shape[1], s_t, [], []
    for _ in range(n):
        seed = find_seed_pixel(x, left)
        every = seed.repeat_interleave(experts)
        logits = grow(features.flatten(0, 1), every, connected, shifts)
        r = region(s_t[:, None], logits.sigmoid().unflatten(0, (-1, experts)))
        seeds.append(seed)
        regions.append(r)
        left = next_scope(left, median_region(r))
    return torch.stack(seeds, 1), torch.stack(regions, 1)
