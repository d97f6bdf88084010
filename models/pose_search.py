"""Poses in which experts' shapes fit regions best, by search.

Fit is the likelihood of the region, -L_r (Eq. 12), and the prior density of position and size: of
all poses of a half hidden object that show the same of it, the likeliest. Sizes and directions
are searched for where decoders have them.

A shape that is turned is another local optimum at every angle, so that gradients do not find the
best one: :func:`fitting_directions` tries angles all around.

An encoder looks at what is visible of an object, once. Of a whole object, that gives the pose. Of
a partly hidden one, it is a guess, which :func:`fitting_poses` improves in the scope: what is in
front is no part of the scope, so that a shape may reach under it at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from econ_pyro.accel.bilinear import sample
from econ_pyro.accel.loops import Number, State, fold
from econ_pyro.core.distributions import PROB_EPS
from econ_pyro.core.pose import (
    RADIUS,
    UNIT,
    direction_of,
    directions,
    latents_of_position,
    position_of,
    turned,
)
from econ_pyro.models.object_centred_decoder import FAR, ObjectCentredDecoder, draw_shapes

COARSE_ANGLES = 24  # of a full turn
FINE_ANGLES = 7  # between the neighbours of the best
STRIDE = 2  # of the pixels that are compared in coarse searches; in fine ones, all are
ROUNDS = (5, 5)  # of the search for poses, coarse and fine
MOVE = 0.35  # of the object's radius, in the first round
GROW = 0.25  # of the log size
TURN = math.pi / 8
SHRINK = 0.7  # of all three, from round to round
LEAST = 1.0  # area of a region in pixels: a smaller one has no pose


class Pose(NamedTuple):
    """Poses of n objects."""

    position: Tensor
    """``(n, 2)``."""
    log_size: Tensor
    """``(n, 1)``."""
    direction: Tensor
    """Cosine and sine, ``(n, 2)``."""

    def changed(self, dy: Number, dx: Number, size: Number, angle: Number) -> Pose:
        """Moved by so many radii, of another log size, and turned by an angle in radians."""
        radius = UNIT * self.log_size.exp()
        position = self.position + torch.cat([dy * radius, dx * radius], 1)
        turn = directions(torch.zeros_like(self.direction[:, 0]) + angle)
        return Pose(position, self.log_size + size, turned(self.direction, turn))

    def where(self, better: Tensor, other: Pose) -> Pose:
        """The other one where it is better, ``(n,)`` bool."""
        pairs = zip(other, self, strict=True)
        return Pose(*(torch.where(better[:, None], a, b) for a, b in pairs))


class _Fit:
    """How well the experts' shapes fit regions, by their poses."""

    def __init__(
        self,
        decoders: Sequence[ObjectCentredDecoder],
        z: Tensor,
        k: Tensor,
        r: Tensor,
        s: Tensor,
    ) -> None:
        of = decoders[0]
        bumps = [d.bump * of.wide[:, 2:] for d in decoders]
        shapes = [a + b for a, b in zip(draw_shapes(decoders), bumps, strict=True)]
        self._logits, self._regions, self._scopes = torch.cat(shapes)[k], r, s
        self._grid, self._extent = of.grid, UNIT * of.wide[0, 0, -1, -1]
        self._scale = torch.stack([d.whitening.scale for d in decoders])[k]
        self._shift = torch.stack([d.whitening.shift for d in decoders])[k]
        self._reach, self._largest = of.reach, of.largest
        self._sizes, self._angles = of.has_size, of.has_angle
        self.start = self._pose_of(z)

    def _pose_of(self, z: Tensor) -> Pose:
        v = z * self._scale + self._shift
        ends = (2, 2 + self._sizes, 2 + self._sizes + 2 * self._angles)
        position, log_size, direction, _ = v.tensor_split(ends, 1)
        if not self._sizes:
            log_size = torch.zeros_like(position[:, :1])
        if not self._angles:
            direction = directions(torch.zeros_like(position[:, 0]))
        return Pose(position_of(position, self._reach), log_size, direction_of(direction))

    def latents_of(self, pose: Pose) -> Tensor:
        """Latents ``(n, P)`` of poses; the directions', if any, have length RADIUS."""
        position = latents_of_position(pose.position, self._reach)
        size = [pose.log_size.clamp(-FAR, self._largest)] if self._sizes else []
        direction = [RADIUS * pose.direction] if self._angles else []
        v = torch.cat([position, *size, *direction], 1)
        last = v.shape[1]
        return (v - self._shift[:, :last]) / self._scale[:, :last]

    def __call__(self, pose: Pose, stride: int) -> Tensor:
        """-L_r and log p(z) but for constants, ``(n,)``, by every so many pixels."""
        grid, r, s = (
            a[:, :, ::stride, ::stride] for a in (self._grid, self._regions, self._scopes)
        )
        m = sample(self._logits, self._own(pose, grid), border=True).sigmoid()
        p = (s * m).clamp(PROB_EPS, 1 - PROB_EPS)
        likely = (1 - p).log()
        likely = torch.addcmul(likely, r.to(p), p.log() - likely).sum((1, 2, 3))
        z = self.latents_of(pose)[:, : 2 + self._sizes]
        # of fewer pixels, the prior counts less
        return likely - 0.5 / stride**2 * z.square().sum(1)

    def _own(self, pose: Pose, grid: Tensor) -> Tensor:
        """Pixels in the objects' own coordinates, ``(n, 2, h, w)``, in units of the extent."""
        size = pose.log_size.clamp(-FAR, self._largest).exp()
        c, s = (pose.direction / (self._extent * size)).unbind(1)
        turn = torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)  # (n, 2, 2)
        own = turn @ grid.flatten(2) - turn @ pose.position[:, :, None]
        return own.unflatten(2, grid.shape[2:]).to(self._logits)


@torch.no_grad()
def fitting_directions(
    decoders: Sequence[ObjectCentredDecoder], z: Tensor, k: Tensor, r: Tensor, s: Tensor
) -> Tensor:
    """Directions in which the experts' shapes fit regions best.

    COARSE_ANGLES are tried, and FINE_ANGLES between the neighbours of the best.

    Args:
        decoders: of all experts, each with one shape and an angle.
        z: latents, ``(n, L)``; their directions play no part.
        k: experts, ``(n,)``.
        r: regions, ``(n, 1, H, W)``.
        s: scopes, ``(n, 1, H, W)``.

    Returns:
        Cosine and sine, ``(n, 2)``.
    """
    fit = _Fit(decoders, z, k, r, s)
    step = 2 * math.pi / COARSE_ANGLES
    coarse = [step * i for i in range(COARSE_ANGLES)]
    between = [step * (2 * i / (FINE_ANGLES + 1) - 1) for i in range(1, FINE_ANGLES + 1)]
    upright = directions(torch.zeros_like(fit.start.direction[:, 0]))
    pose = _best_turned(fit, fit.start._replace(direction=upright), coarse, STRIDE)
    return _best_turned(fit, pose, between, 1).direction.to(z)


def _best_turned(fit: _Fit, pose: Pose, angles: Iterable[float], stride: int) -> Pose:
    """A pose turned by the best of some angles in radians; the first of equals."""

    def better(state: State, angle: Sequence[Number]) -> State:
        return _likelier(fit, state, pose.changed(0.0, 0.0, 0.0, *angle), stride)

    worst = torch.full_like(pose.direction[:, 0], -torch.inf)
    return Pose(*fold(better, (*pose, worst), [(angle,) for angle in angles])[:-1])


def _likelier(fit: _Fit, state: State, tried: Pose, stride: int) -> State:
    """Poses and how well they fit, or others where these fit better."""
    found = fit(tried, stride)
    better = found > state[-1]
    return *Pose(*state[:-1]).where(better, tried), torch.where(better, found, state[-1])


@torch.no_grad()
def fitting_poses(
    decoders: Sequence[ObjectCentredDecoder], z: Tensor, k: Tensor, r: Tensor, s: Tensor
) -> Tensor:
    """Poses near those of given latents, at which the experts' shapes fit regions best.

    Positions, sizes and angles are changed in turn, by steps that become smaller. Layers without
    a region keep their poses.

    Args:
        decoders: of all experts, each with one shape.
        z: latents, ``(n, L)``.
        k: experts, ``(n,)``.
        r: regions, ``(n, 1, H, W)``.
        s: scopes, ``(n, 1, H, W)``.

    Returns:
        Latents of the poses, ``(n, P)``, the directions', if any, of length RADIUS.
    """
    there = r.sum((1, 2, 3)) >= LEAST
    # no graph can leave out layers: an export searches for all
    rows = slice(None) if torch.compiler.is_compiling() else there
    fit = _Fit(decoders, z[rows], k[rows], r[rows], s[rows])
    pose, step = fit.start, 1.0
    for stride, rounds in zip((STRIDE, 1), ROUNDS, strict=True):
        changes: list[tuple[float, ...]] = []
        for _ in range(rounds):
            changes += _changes(step, decoders[0])
            step *= SHRINK
        pose = _best_changed(fit, pose, changes, stride)
    latents = fit.latents_of(pose).to(z)
    before = z[:, : latents.shape[1]]
    found = before.clone()
    found[rows] = latents
    return torch.where(there[:, None], found, before)


def _best_changed(fit: _Fit, pose: Pose, changes: Iterable[Sequence[float]], stride: int) -> Pose:
    """A pose after those of some changes, one after another, by which it fits better."""

    def better(state: State, change: Sequence[Number]) -> State:
        return _likelier(fit, state, Pose(*state[:-1]).changed(*change), stride)

    return Pose(*fold(better, (*pose, fit(pose, stride)), list(changes))[:-1])


def _changes(
    step: float, decoder: ObjectCentredDecoder
) -> Iterator[tuple[float, float, float, float]]:
    """The changes of a round, as :meth:`Pose.changed` takes them."""
    around = (-step * MOVE, 0.0, step * MOVE)
    for dy, dx in product(around, around):
        if dy or dx:
            yield dy, dx, 0.0, 0.0
    for sign in (-step, step):
        if decoder.has_size:
            yield 0.0, 0.0, sign * GROW, 0.0
        if decoder.has_angle:
            yield 0.0, 0.0, 0.0, sign * TURN
