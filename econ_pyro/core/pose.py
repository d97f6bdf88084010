r"""Poses: what the first latents mean to an object-centred encoder and decoder.

The encoder crops a window around its region, and the decoder renders around a position: what
either has learnt about an object holds anywhere in the image.

Coordinates run from -1 to 1 over the image, (y, x). Objects lie within a reach of the centre: a
latent z stands for the position

.. math:: reach \tanh(0.85 z),

which for z ~ N(0, 1) is nearly uniform (tanh(0.85 z) and the Gaussian's own 2 Phi(z) - 1 are never
0.02 apart), so that the prior spreads objects as evenly as scenes do. A size, where there is one,
is the exponential of a third latent; at size 1 an object's radius is UNIT.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.accel.bilinear import sample
from econ_pyro.core.compositing import mean_over

SLOPE = 0.85  # of the hyperbolic tangent that is most like 2 Phi(z) - 1
FARTHEST = 0.99  # of the reach: an encoder's z is finite, and so is the gradient
RADIUS = 1.5  # of the mean of a direction; the prior's own is 1.25 on average
UNIT = 0.3  # about an object's radius: its edge lies near 1
NARROWEST = 0.5  # half the width of the smallest window, so that what hides an object is in it
SPREADS = 2.0  # a box reaches 1.73 standard deviations from its centre, a disc 2


def coordinates(size: int, device: torch.device | None = None) -> Tensor:
    """Coordinates of the pixels, ``(1, 2, size, size)``: y and x in [-1, 1]."""
    axis = torch.linspace(-1, 1, size, device=device)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None]


def position_of(z: Tensor, reach: float) -> Tensor:
    """Positions, ``(n, 2)`` in (-reach, reach), of latents ``(n, 2)``."""
    return reach * (SLOPE * z).tanh()


def latents_of_position(position: Tensor, reach: float) -> Tensor:
    """The inverse; positions beyond the reach are clamped to its edge."""
    return (position / reach).clamp(-FARTHEST, FARTHEST).atanh() / SLOPE


def object_coordinates(
    position: Tensor,
    grid: Tensor,
    log_size: Tensor | None = None,
    direction: Tensor | None = None,
) -> Tensor:
    """Coordinates relative to a position, and a Gaussian bump around it.

    Args:
        position: ``(n, 2)``.
        grid: :func:`coordinates`.
        log_size: log of the size at which the object is drawn, ``(n, 1)``; 0 if not given.
        direction: cosine and sine of the angle by which it is turned, ``(n, 2)``; not turned if
            not given.

    Returns:
        ``(n, 3, H, W)``.
    """
    away = (grid - position[:, :, None, None]) / UNIT
    if log_size is not None:
        away = away * (-log_size[:, :, None, None]).exp()
    if direction is not None:
        away = turned(away, direction[:, :, None, None])
    return torch.cat([away, (-0.5 * away.square().sum(1, keepdim=True)).exp()], 1)


def turned(v: Tensor, direction: Tensor) -> Tensor:
    """Vectors turned by the angle of a direction, both ``(n, 2, ...)``: complex multiplication."""
    a, b = v.unbind(1)
    c, s = direction.unbind(1)
    return torch.stack([c * a - s * b, c * b + s * a], 1)


def direction_of(z: Tensor) -> Tensor:
    """Unit vectors, ``(n, 2)``, of latents ``(n, 2)``: uniform for z ~ N(0, I)."""
    c, s = z.unbind(1)
    return F.normalize(torch.stack([torch.where((c == 0) & (s == 0), 1.0, c), s], 1), dim=1)


def directions(angle: Tensor) -> Tensor:
    """Unit vectors, ``(A, 2)``, of angles in radians, ``(A,)``."""
    return torch.stack([angle.cos(), angle.sin()], 1)


def centre(r: Tensor, grid: Tensor) -> Tensor:
    """A region's centre of mass, ``(n, 2)``.

    Args:
        r: region, ``(n, 1, H, W)``, nowhere 0.
        grid: :func:`coordinates`.
    """
    return mean_over(r, grid)


def log_size_of(r: Tensor, position: Tensor, grid: Tensor) -> Tensor:
    """Log of the size at which a disc of the region's spread would be drawn, ``(n, 1)``.

    Args:
        r: region, ``(n, 1, H, W)``, nowhere 0.
        position: its :func:`centre`, ``(n, 2)``.
        grid: :func:`coordinates`.
    """
    variance = mean_over(r, (grid - position[:, :, None, None]).square()).mean(1, keepdim=True)
    return 0.5 * variance.log() - math.log(UNIT / 2)  # a disc's deviation is half its radius


@torch.no_grad()
def window(r: Tensor, position: Tensor, grid: Tensor) -> Tensor:
    """A window around a region, at half the image's size.

    The window is centred on the region's centre of mass, and its width follows the region's
    spread: from half the image, at its own resolution, to all of it. No gradient flows through
    the window's position, only through what is seen in it.

    Args:
        r: region, ``(n, 1, H, W)``, nowhere 0.
        position: its :func:`centre`, ``(n, 2)``.
        grid: :func:`coordinates`.

    Returns:
        Coordinates in the image, ``(n, 2, H / 2, W / 2)``.
    """
    middle = position[:, :, None, None]
    variance = mean_over(r, (grid - middle).square()).amax(1)
    width = (SPREADS * variance.sqrt()).clamp(NARROWEST, 1.0)
    half = coordinates(grid.shape[2] // 2, grid.device).to(grid)
    return middle + width[:, None, None, None] * half


def crop(inputs: Tensor, where: Tensor, outside: Tensor) -> Tensor:
    """The pixels in a :func:`window`, ``(n, C, h, w)``.

    Args:
        inputs: images less ``outside``, ``(n, C, H, W)``.
        where: coordinates, ``(n, 2, h, w)``.
        outside: values beyond the image's edge, ``(C, 1, 1)``.
    """
    return sample(inputs, where) + outside


def pass_through(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts by passing its last inputs through to its last outputs.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
    """
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.zero_()
        for i in range(1, min(inputs, outputs) + 1):
            linear.weight[-i, -i] = 1.0
        assert linear.bias is not None
        linear.bias.zero_()
    return linear
