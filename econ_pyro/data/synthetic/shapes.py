r"""Exact rasterisation of shapes: which pixel centres lie inside.

Lengths are integers in units of 1/16 pixel, angles in units of 1/256 turn, with cosine and sine
in units of 1/256. Every test is thus an inequality between int64 numbers, and masks are identical
on every device. A shape is a union of parts in a box of half side G (its grid), with y down. A
pixel at offset d from the object's centre has the box coordinates

.. math:: p = \frac{2 G}{256 S} M d, \qquad
          M = \begin{pmatrix} c & s \\ -s & c \end{pmatrix},

with S the side of the box. Tests for both kinds of part separate into a column term and a row
term, so that a pixel costs one comparison per side:

- a polygon's side :math:`n \cdot p \le k` is
  :math:`2 G (n^T M)_1 d_x \le 256 S k - 2 G (n^T M)_2 d_y`. Pixel centres on a side belong to the
  shape on its left and top sides only: a square of 12 pixels is always 12 pixels wide.
- an oval is :math:`w_1 P^2 + w_2 Q^2 < \ell (256 S)^2` with :math:`(P, Q) = 2 G M d - 256 S o`
  for its centre o; the mixed term :math:`d_x d_y` vanishes if :math:`w_1 = w_2`.

Without rotation, every shape touches all four sides of its box, except for the ellipse, whose
height is half its width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

UNIT = 16
"""Units of length per pixel."""
TURNS = 256
"""Units of angle per full turn."""
_ONE = 256  # cosine of 0
_EXTENT_UNITS = 4096  # extents are in units of side / _EXTENT_UNITS

Point = tuple[int, int]


@dataclass(frozen=True)
class _Polygon:
    """Convex polygon around the origin; points inside may violate ``spare`` of the sides."""

    grid: int
    corners: tuple[Point, ...]
    spare: int = 0

    def sides(self) -> list[tuple[int, int, int]]:
        """Normal and offset (n_x, n_y, k) of each side: n . p <= k inside."""
        lines = []
        for (x0, y0), (x1, y1) in zip(
            self.corners, self.corners[1:] + self.corners[:1], strict=True
        ):
            nx, ny = y1 - y0, x0 - x1
            k = nx * x0 + ny * y0
            lines.append((nx, ny, k) if k > 0 else (-nx, -ny, -k))
        return lines

    def inside(self, dx: Tensor, dy: Tensor, side: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hits = []
        for nx, ny, k in self.sides():
            a, b = 2 * self.grid * (nx * cos - ny * sin), 2 * self.grid * (nx * sin + ny * cos)
            right_or_bottom = ((a > 0) | ((a == 0) & (b > 0))).to(a.dtype)
            bound = _ONE * k * side - right_or_bottom
            hits.append((a * dx)[:, None, :] <= (bound - b * dy)[:, :, None])
        if not self.spare:
            inside = hits[0]
            for hit in hits[1:]:
                inside &= hit
            return inside
        total = hits[0].view(torch.uint8)
        for hit in hits[1:]:
            total += hit.view(torch.uint8)
        return total >= len(hits) - self.spare

    def extents(self, cos: float, sin: float) -> tuple[list[float], list[float]]:
        xs = [(cos * x - sin * y) / self.grid for x, y in self.corners]
        ys = [(sin * x + cos * y) / self.grid for x, y in self.corners]
        return xs, ys


@dataclass(frozen=True)
class _Oval:
    """Points with ``weights . (p - centre)^2 < limit``."""

    grid: int = 1
    centre: Point = (0, 0)
    weights: Point = (1, 1)
    limit: int = 1

    def inside(self, dx: Tensor, dy: Tensor, side: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        (w1, w2), scale = self.weights, _ONE * side
        p1, p2, p0 = 2 * self.grid * cos, 2 * self.grid * sin, self.centre[0] * scale
        q1, q2, q0 = -p2, p1, self.centre[1] * scale
        column = (w1 * p1 * p1 + w2 * q1 * q1) * dx * dx - 2 * (w1 * p1 * p0 + w2 * q1 * q0) * dx
        row = (w1 * p2 * p2 + w2 * q2 * q2) * dy * dy - 2 * (w1 * p2 * p0 + w2 * q2 * q0) * dy
        bound = self.limit * scale * scale - w1 * p0 * p0 - w2 * q0 * q0
        left, right = column[:, None, :], (bound - row)[:, :, None]
        if w1 != w2:
            cross = 2 * (w1 * p1 * p2 + w2 * q1 * q2)
            left = (cross * dx)[:, None, :] * dy[:, :, None] + left
        return left < right

    def extents(self, cos: float, sin: float) -> tuple[list[float], list[float]]:
        (x, y), (w1, w2) = self.centre, self.weights
        a, b = (math.sqrt(self.limit / w) for w in (w1, w2))
        cx, cy = cos * x - sin * y, sin * x + cos * y
        rx, ry = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
        grid = self.grid
        return [(cx - rx) / grid, (cx + rx) / grid], [(cy - ry) / grid, (cy + ry) / grid]


def _rectangle(grid: int, x: int, y: int) -> _Polygon:
    return _Polygon(grid, ((-x, -y), (x, -y), (x, y), (-x, y)))


_PARTS: dict[str, tuple[_Polygon | _Oval, ...]] = {
    "circle": (_Oval(),),
    "square": (_rectangle(1, 1, 1),),
    "triangle": (_Polygon(1, ((0, -1), (1, 1), (-1, 1))),),
    # two discs, and a triangle whose lower sides are tangents of the discs
    "heart": (
        _Polygon(48, ((0, 48), (42, -5), (-42, -5))),
        _Oval(48, (21, -21), limit=27**2),
        _Oval(48, (-21, -21), limit=27**2),
    ),
    # a pentagram stretched to the box (golden ratios as Fibonacci numbers): the centre is inside
    # all five lines, an arm inside four
    "star": (_Polygon(55, ((0, -55), (34, 55), (-55, -13), (55, -13), (-34, 55)), spare=1),),
    "cross": (_rectangle(3, 3, 1), _rectangle(3, 1, 3)),
    "ellipse": (_Oval(weights=(1, 4)),),
}


@cache
def rotations() -> Tensor:
    """Cosine and sine of each angle in units of 1/256, ``(TURNS, 2)`` int64."""
    angles = [2 * math.pi * t / TURNS for t in range(TURNS)]
    return torch.tensor([[round(_ONE * f(a)) for f in (math.cos, math.sin)] for a in angles])


@cache
def _extents(name: str) -> Tensor:
    """Extents of a shape per angle: left, top, right, bottom, ``(TURNS, 4)`` int64."""
    table = []
    for c, s in rotations().tolist():
        scale = _ONE / (c * c + s * s)  # the inverse of M / 256
        xs: list[float] = []
        ys: list[float] = []
        for part in _PARTS[name]:
            x, y = part.extents(c * scale, s * scale)
            xs, ys = xs + x, ys + y
        ends = (-min(xs), -min(ys), max(xs), max(ys))
        table.append([math.ceil(end * _EXTENT_UNITS / 2 - 1e-6) for end in ends])
    return torch.tensor(table)


def extents(classes: Sequence[str], label: Tensor, side: Tensor, turn: Tensor) -> Tensor:
    """Extents of objects from their centres.

    Args:
        classes: names of the classes.
        label: index into ``classes``, :math:`(n,)` int64.
        side: side of the bounding box before rotation, in units, :math:`(n,)` int64.
        turn: clockwise rotation in units of 1/256 turn, :math:`(n,)` int64.

    Returns:
        Left, top, right and bottom, rounded up to whole units: :math:`(n, 4)` int64.
    """
    table = torch.stack([_extents(name) for name in classes]).to(label.device)
    return scaled_extents(table[label, turn], side)


def scaled_extents(extents: Tensor, side: Tensor) -> Tensor:
    """Scale extents in units of side / 4096 to lengths, rounded up."""
    return (extents * side[:, None] + (_EXTENT_UNITS - 1)) // _EXTENT_UNITS


def extents_of_points(points: Tensor) -> Tensor:
    """Extents of the convex hull of points.

    Args:
        points: (x, y) in a box of half side 1, :math:`(P, 2)` float64.

    Returns:
        Left, top, right and bottom per angle, in units of side / 4096: :math:`(TURNS, 4)` int64,
        for :func:`scaled_extents`.
    """
    cos, sin = rotations().double().mul(_ONE).div(rotations().square().sum(1, True)).split(1, 1)
    x, y = points.unbind(1)
    x, y = cos * x - sin * y, sin * x + cos * y  # (TURNS, P): the inverse of M / 256
    ends = torch.stack([-x.amin(1), -y.amin(1), x.amax(1), y.amax(1)], 1)
    return (ends * (_EXTENT_UNITS / 2) - 1e-6).ceil().long()


def masks(
    classes: Sequence[str], label: Tensor, centre: Tensor, side: Tensor, turn: Tensor, size: int
) -> Tensor:
    """Amodal masks of objects.

    Args:
        classes: names of the classes.
        label: index into ``classes``, -1 for no object, :math:`(n,)` int64.
        centre: (x, y) in units from the image's top left corner, :math:`(n, 2)` int64.
        side: side of the bounding box before rotation, in units, :math:`(n,)` int64.
        turn: clockwise rotation in units of 1/256 turn, :math:`(n,)` int64.
        size: height and width of the image in pixels.

    Returns:
        :math:`(n, H, W)` bool: pixels whose centres lie inside; all False where label is -1.
    """
    out = torch.zeros(len(label), size, size, dtype=torch.bool, device=label.device)
    pixels = torch.arange(size, device=label.device) * UNIT + UNIT // 2
    rotation = rotations().to(label.device)[turn]  # (n, 2)
    for k, name in enumerate(classes):
        members = torch.nonzero(label == k)[:, 0]
        if not len(members):
            continue
        dx, dy = (pixels - centre[members, axis, None] for axis in (0, 1))  # (m, W), (m, H)
        s, cos, sin = side[members, None], rotation[members, :1], rotation[members, 1:]
        parts = [part.inside(dx, dy, s, cos, sin) for part in _PARTS[name]]
        inside = parts[0]
        for part in parts[1:]:
            inside |= part
        out[members] = inside
    return out
