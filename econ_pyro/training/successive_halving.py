"""Asynchronous successive halving (Li et al., 2020): which configuration trains on next.

Every configuration is trained up to the first rung, a number of steps. Of those that have reached
a rung, the best one in ``factor`` goes on to the next, from its checkpoint; the others stay where
they are. Nobody waits until all have reached a rung. A configuration that is passed over may still
go on later, when worse ones have arrived.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """How far a configuration has come."""

    index: int
    values: Mapping[int, float]
    """ELBO at each rung reached, the higher the better; -inf of a training that diverged."""
    state: str = "waiting"
    """waiting: for a worker; running: with one; ended: nothing is left to do."""
    target: int = 0
    """Rung to which it was sent; 0 before."""


def next_steps(
    standings: Sequence[Standing], rungs: Sequence[int], factor: int
) -> list[tuple[int, int]]:
    """Index and rung of the trainings that may begin or go on now, the most urgent first.

    First come those that stopped on their way to a rung, then those that are promoted, then new
    ones. When nothing else is left, the best of the last rung that was reached goes on, so that
    one configuration at least is trained to the end.

    Args:
        standings: of all configurations.
        rungs: numbers of training steps.
        factor: one of so many goes on.
    """
    free = {s.index: s for s in standings if s.state == "waiting"}
    climbs = list(zip(rungs, rungs[1:], strict=False))[::-1]
    found = [(s.index, s.target) for s in free.values() if s.target and s.target not in s.values]
    for low, high in climbs:
        ranked = _ranked(standings, low)
        promoted = ranked[: sum(low in s.values for s in standings) // factor]
        found += [(i, high) for i in promoted if i in free and high not in free[i].values]
    found += [(s.index, rungs[0]) for s in free.values() if not s.values and not s.target]
    if found or any(s.state == "running" for s in standings) or _ranked(standings, rungs[-1]):
        first: dict[int, int] = {}
        for i, rung in found:
            first.setdefault(i, rung)
        return list(first.items())
    for low, high in climbs:
        if left := [i for i in _ranked(standings, low) if i in free]:
            return [(left[0], high)]
    return []


def _ranked(standings: Sequence[Standing], rung: int) -> list[int]:
    """Indices of those that have reached a rung, the best first, without those that diverged."""
    at = [s for s in standings if math.isfinite(s.values.get(rung, -math.inf))]
    return [s.index for s in sorted(at, key=lambda s: (-s.values[rung], s.index))]
