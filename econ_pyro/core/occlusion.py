"""Occlusion augmentation: in training, encoders see objects with another one put in front.

The decoder still has to account for all of the region, so L_x, L_z and L_r stay what they are, of
a posterior q(z) that has seen less: Eq. 13 bounds the same likelihood. But an expert that wins an
object where it is whole learns what it looks like where it is not. Otherwise half-hidden objects
stay with whichever expert took them first, and their own never learns from one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.accel.compile import compilable
from econ_pyro.core.pose import centre, coordinates

SEEN = 0.3  # of a region at least: less would say nothing of its shape
EMPTY = 1e-9  # added to regions that may have no pixel, and so no centre
REACH = 0.25  # of the image's side: how far the centre of what is put in front may be off


@torch.no_grad()
@compilable
def draw_occluders(x: Tensor, r: Tensor, uniform: Tensor, share: float) -> Tensor:
    """Put another layer of the same image in front of some layers, the last one left out.

    Args:
        x: images, ``(B, 3, H, W)``.
        r: regions, front to back, ``(B, T, 1, H, W)``.
        uniform: random numbers in [0, 1), ``(B, T, 4)``.
        share: of the layers that lose a piece, if that leaves enough to be seen.

    Returns:
        What is in front of each layer: its colours and where it is, ``(B, T, 4, H, W)``.
    """
    n, steps, _, size, _ = r.shape
    if steps < 3:  # there is no other object
        return x.new_zeros(n, steps, 4, size, size)
    rows = torch.arange(n, device=x.device)[:, None]
    t = torch.arange(steps, device=x.device)
    other = (t + 1 + (uniform[:, :, 0] * (steps - 2)).long()) % (steps - 1)  # of the last: any
    front = torch.cat([x[:, None].expand(-1, steps, -1, -1, -1), r[rows, other]], 2)
    off = (2 * uniform[:, :, 1:3] - 1) * REACH * size
    front = _shifted(front, (_centre(r) - _centre(front[:, :, 3:]) + off).round().long())
    seen = (r * (1 - front[:, :, 3:])).sum((2, 3, 4)) / r.sum((2, 3, 4)).clamp_min(1e-6)
    put = (uniform[:, :, 3] < share) & (seen >= SEEN) & (t < steps - 1)
    return front * put[:, :, None, None, None]


@compilable
def occlude(x: Tensor, r_t: Tensor, occluder: Tensor) -> tuple[Tensor, Tensor]:
    """Image and region as they are seen behind an occluder.

    Args:
        x: images, ``(n, 3, H, W)``.
        r_t: regions, ``(n, 1, H, W)``.
        occluder: colours and mask, ``(n, 4, H, W)``.
    """
    colour, mask = occluder.split([3, 1], 1)
    return mask * colour + (1 - mask) * x, r_t * (1 - mask)


def _centre(r: Tensor) -> Tensor:
    """Row and column of the middle of each region, ``(B, T, 2)``; of an empty one, the image's."""
    size = r.shape[-1]
    grid = coordinates(size, r.device).to(r)
    middle = centre(r.flatten(0, 1) + EMPTY, grid).unflatten(0, r.shape[:2])
    return (middle + 1) / 2 * (size - 1)


def _shifted(front: Tensor, by: Tensor) -> Tensor:
    """Layers ``(B, T, C, H, W)`` moved by whole pixels, ``(B, T, 2)``; nothing comes in."""
    for axis, along in ((3, (..., None)), (4, (..., None, slice(None)))):
        side = front.shape[axis]
        source = torch.arange(side, device=front.device) - by[:, :, axis - 3, None]  # (B, T, side)
        inside = (source >= 0) & (source < side)
        index = source.clamp(0, side - 1)[:, :, None][along]
        front = front.gather(axis, index.expand_as(front)) * inside[:, :, None][along]
    return front
