r"""Where rays meet spheres, cubes and cylinders.

Each solid is an intersection of slabs, balls or tubes: a ray :math:`o + t d` is in each of them
for t in an interval, and in the solid for t in the intersection of the intervals. Solids have
their centre at the origin; a solid of radius r touches the cylinder of that radius about the
vertical axis. Only operations are used that IEEE 754 rounds correctly (+, -, *, / and the square
root), one by one, so results are bit-identical on every device and for every shape of the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_TINY = 1e-12  # lower bound of denominators: rays parallel to a cylinder's axis
_HALF_SIDE = 0.5**0.5  # of a cube of radius 1
_CAP = 1 - 1e-3  # height in a cylinder of radius 1 from which on a point belongs to the cap


class Vector(NamedTuple):
    """Components of vectors, tensors that broadcast."""

    x: Tensor
    y: Tensor
    z: Tensor

    def dot(self, other: Vector) -> Tensor:
        """Scalar product."""
        return self.x * other.x + self.y * other.y + self.z * other.z

    def plus(self, other: Vector) -> Vector:
        """Sum."""
        return Vector(self.x + other.x, self.y + other.y, self.z + other.z)

    def minus(self, other: Vector) -> Vector:
        """Difference."""
        return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    def times(self, factor: Tensor | float) -> Vector:
        """Product with numbers."""
        return Vector(self.x * factor, self.y * factor, self.z * factor)

    def unit(self) -> Vector:
        """Vectors of length 1."""
        return self.times(1 / self.dot(self).sqrt())

    def turned(self, cos: Tensor, sin: Tensor) -> Vector:
        """Rotated about the vertical axis, clockwise seen from above."""
        return Vector(cos * self.x + sin * self.y, cos * self.y - sin * self.x, self.z)


class Solid(NamedTuple):
    """A kind of solid."""

    half_height: float
    """Half of its height, for radius 1."""
    interval: Callable[[Vector, Vector, Tensor], tuple[Tensor, Tensor]]
    """Where rays from an origin in a direction enter and leave a solid of a radius. They miss it
    where no number is from the first to the second, which may be NaN."""
    normal: Callable[[Vector], Vector]
    """The normal, in any length, at points of the surface for radius 1."""


def _sphere(o: Vector, d: Vector, radius: Tensor) -> tuple[Tensor, Tensor]:
    return _roots(d.dot(d), o.dot(d), o.dot(o) - radius * radius)


def _cylinder(o: Vector, d: Vector, radius: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c = (u.x * v.x + u.y * v.y for u, v in ((d, d), (o, d), (o, o)))
    near, far = _roots(a.clamp_min(_TINY), b, c - radius * radius)
    low, high = _slab(o.z, d.z, radius)
    return torch.maximum(near, low), torch.minimum(far, high)


def _cube(o: Vector, d: Vector, radius: Tensor) -> tuple[Tensor, Tensor]:
    half = radius * _HALF_SIDE
    (x0, x1), (y0, y1), (z0, z1) = (_slab(a, b, half) for a, b in zip(o, d, strict=True))
    near = torch.maximum(torch.maximum(x0, y0), z0)
    return near, torch.minimum(torch.minimum(x1, y1), z1)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Where :math:`a t^2 + 2 b t + c = 0`; NaN if nowhere."""
    root = (b * b - a * c).sqrt()
    return (-b - root) / a, (root - b) / a


def _slab(o: Tensor, d: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / d
    first, second = (-half - o) * inverse, (half - o) * inverse
    return torch.minimum(first, second), torch.maximum(first, second)


def _cube_normal(p: Vector) -> Vector:
    x, y, z = (a.abs() for a in p)
    on_x, on_y = (x > y) & (x > z), (y >= x) & (y > z)
    on_z = ~(on_x | on_y)
    each = zip(p, (on_x, on_y, on_z), strict=True)
    return Vector(*(a.masked_fill(~on, 0) for a, on in each))


def _cylinder_normal(p: Vector) -> Vector:
    cap = p.z.abs() > _CAP
    return Vector(p.x.masked_fill(cap, 0), p.y.masked_fill(cap, 0), p.z.masked_fill(~cap, 0))


SOLIDS = {
    "sphere": Solid(1.0, _sphere, lambda p: p),
    "cube": Solid(_HALF_SIDE, _cube, _cube_normal),
    "cylinder": Solid(1.0, _cylinder, _cylinder_normal),
}
"""The kinds of solids."""
