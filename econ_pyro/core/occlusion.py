"""Occlusion augmentation: in training, encoders see objects with artificial occluders.

The decoder still has to explain the whole region. L_x, L_z and L_r keep their form, with a
posterior q(z) that is conditioned on less, so Eq. 13 bounds the same likelihood. The expert that
wins a whole object thereby also learns to encode the object when it is partly occluded. Without
augmentation, partly occluded objects stay with the expert that won them first, and the expert of
their class never sees one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.accel.compile import compilable
from econ_pyro.core.pose import centre, coordinates

MIN_VISIBLE = 0.3  # minimum visible fraction of a region; less does not determine its shape
EPS = 1e-9  # added to regions, which may be empty and then have no centre
MAX_OFFSET = 0.25  # of an occluder's centre from the region's centre, as a fraction of the image


@torch.no_grad()
@compilable
def draw_occluders(x: Tensor, r: Tensor, uniform: Tensor, share: float) -> Tensor:
    """Sample occluders: other layers of the same image, for all layers but the last.

    Args:
        x: images, ``(B, 3, H, W)``.
        r: regions, front to back, ``(B, T, 1, H, W)``.
        uniform: random numbers in [0, 1), ``(B, T, 4)``.
        share: share of the layers that get an occluder, if enough of them stays visible.

    Returns:
        Colours and mask of the occluder of each layer, ``(B, T, 4, H, W)``; 0 without occluder.
    """
    n, slots, _, size, _ = r.shape
    if slots < 3:  # there is no other object
        return x.new_zeros(n, slots, 4, size, size)
    rows = torch.arange(n, device=x.device)[:, None]
    t = torch.arange(slots, device=x.device)
    other = (t + 1 + (uniform[:, :, 0] * (slots - 2)).long()) % (
        slots - 1
    )  # any for the last layer
    front = torch.cat([x[:, None].expand(-1, slots, -1, -1, -1), r[rows, other]], 2)
    offset = (2 * uniform[:, :, 1:3] - 1) * MAX_OFFSET * size
    front = _shifted(front, (_centre(r) - _centre(front[:, :, 3:]) + offset).round().long())
    visible = (r * (1 - front[:, :, 3:])).sum((2, 3, 4)) / r.sum((2, 3, 4)).clamp_min(1e-6)
    occluded = (uniform[:, :, 3] < share) & (visible >= MIN_VISIBLE) & (t < slots - 1)
    return front * occluded[:, :, None, None, None]


@compilable
def occlude(x: Tensor, r_t: Tensor, occluder: Tensor) -> tuple[Tensor, Tensor]:
    """Image and region behind an occluder.

    Args:
        x: images, ``(n, 3, H, W)``.
        r_t: regions, ``(n, 1, H, W)``.
        occluder: colours and mask, ``(n, 4, H, W)``.
    """
    colour, mask = occluder.split([3, 1], 1)
    return mask * colour + (1 - mask) * x, r_t * (1 - mask)


def _centre(r: Tensor) -> Tensor:
    """Row and column of each region's centre, ``(B, T, 2)``; the image's for an empty region."""
    size = r.shape[-1]
    grid = coordinates(size, r.device).to(r)
    middle = centre(r.flatten(0, 1) + EPS, grid).unflatten(0, r.shape[:2])
    return (middle + 1) / 2 * (size - 1)


def _shifted(front: Tensor, by: Tensor) -> Tensor:
    """Shift layers ``(B, T, C, H, W)`` by whole pixels ``(B, T, 2)``, padded with zeros."""
    for axis, along in ((3, (..., None)), (4, (..., None, slice(None)))):
        side = front.shape[axis]
        source = torch.arange(side, device=front.device) - by[:, :, axis - 3, None]  # (B, T, side)
        inside = (source >= 0) & (source < side)
        index = source.clamp(0, side - 1)[:, :, None][along]
        front = front.gather(axis, index.expand_as(front)) * inside[:, :, None][along]
    return front
