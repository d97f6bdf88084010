"""Poses in which experts' shapes fit regions best, by search from what encoders propose.

An encoder looks at what is visible of an object, once. Of a whole object, that gives the pose. Of
a partly hidden one, it is a guess, which a search in the scope improves: what is in front is no
part of the scope, so that a shape may reach under it at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from econ_pyro.accel.bilinear import sample
from econ_pyro.core.distributions import PROB_EPS
from econ_pyro.core.pose import (
    RADIUS,
    UNIT,
    direction_of,
    directions,
    latents_of_position,
    object_coordinates,
    position_of,
    turned,
)
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder, draw_shapes

ROUNDS = 10
COARSE = 2  # every so many pixels are compared in the first half of the rounds, later all
MOVE = 0.35  # of the object's radius, in the first round
GROW = 0.25  # of the log size
TURN = math.pi / 8
SHRINK = 0.7  # of all three, from round to round


class Pose(NamedTuple):
    """Poses of n objects."""

    position: Tensor
    """``(n, 2)``."""
    log_size: Tensor
    """``(n, 1)``."""
    direction: Tensor
    """Cosine and sine, ``(n, 2)``."""

    def moved(self, dy: float, dx: float) -> Pose:
        """At another position, in units of its radius."""
        offset = UNIT * self.log_size.exp() * self.position.new_tensor([[dy, dx]])
        return self._replace(position=self.position + offset)

    def resized(self, by: float) -> Pose:
        """Of another log size."""
        return self._replace(log_size=self.log_size + by)

    def turned(self, angle: float) -> Pose:
        """At another angle, in radians."""
        by = directions(self.direction.new_tensor([angle])).expand_as(self.direction)
        return self._replace(direction=turned(self.direction, by))

    def where(self, better: Tensor, other: Pose) -> Pose:
        """The other one where it is better, ``(n,)`` bool."""
        pairs = zip(other, self, strict=True)
        return Pose(*(torch.where(better[:, None], a, b) for a, b in pairs))


@torch.no_grad()
def fitting_poses(
    decoders: Sequence[ObjectCentredDecoder], z: Tensor, k: Tensor, r: Tensor, s: Tensor
) -> Tensor:
    """Poses near those of given latents, at which the experts' shapes fit regions best.

    Fit is the likelihood of the region, -L_r (Eq. 12). Positions, sizes and angles are changed in
    turn, by steps that become smaller.

    Args:
        decoders: of all experts, each with one shape and an angle.
        z: latents, ``(n, L)``.
        k: experts, ``(n,)``.
        r: regions, ``(n, 1, H, W)``.
        s: scopes, ``(n, 1, H, W)``.

    Returns:
        Latents of the poses, ``(n, P)``, the directions' of length RADIUS.
    """
    of = decoders[0]
    shape = torch.cat(list(draw_shapes(decoders)))[k]
    bump = torch.stack([d.bump for d in decoders])[k, None, None, None]
    scale = torch.stack([d.whitening.scale for d in decoders])[k]
    shift = torch.stack([d.whitening.shift for d in decoders])[k]

    def fit(pose: Pose, grid: Tensor, seen: Tensor, left: Tensor) -> Tensor:
        own = object_coordinates(pose.position, grid, pose.log_size, pose.direction)
        where = own[:, :2] / of.wide[0, 0, -1, -1]
        m = (sample(shape, where.to(shape), border=True) + bump * own[:, 2:]).sigmoid()
        p = (left * m).clamp(PROB_EPS, 1 - PROB_EPS)
        return (seen * p.log() + (1 - seen) * (1 - p).log()).sum((1, 2, 3))

    last = 2 + of.has_size + 2
    position, log_size, direction, _ = (z * scale + shift).tensor_split((2, last - 2, last), 1)
    if not of.has_size:
        log_size = torch.zeros_like(position[:, :1])
    pose = Pose(position_of(position, of.reach), log_size, direction_of(direction))
    step = 1.0
    for stride, rounds in ((COARSE, ROUNDS // 2), (1, ROUNDS - ROUNDS // 2)):
        pixels = [a[:, :, ::stride, ::stride] for a in (of.grid, r, s)]
        likely = fit(pose, *pixels)
        for _ in range(rounds):
            for change in _changes(step, of.has_size):
                changed = change(pose)
                found = fit(changed, *pixels)
                better = found > likely
                pose, likely = pose.where(better, changed), torch.where(better, found, likely)
            step *= SHRINK
    parts = [latents_of_position(pose.position, of.reach), RADIUS * pose.direction]
    if of.has_size:
        parts.insert(1, pose.log_size)
    return (torch.cat(parts, 1) - shift[:, :last]) / scale[:, :last]


def _changes(step: float, sizes: bool) -> Iterator[Callable[[Pose], Pose]]:
    """The changes of a round."""
    around = (-step * MOVE, 0.0, step * MOVE)
    for dy, dx in product(around, around):
        if dy or dx:
            yield partial(Pose.moved, dy=dy, dx=dx)
    for sign in (-step, step):
        if sizes:
            yield partial(Pose.resized, by=sign * GROW)
        yield partial(Pose.turned, angle=sign * TURN)
