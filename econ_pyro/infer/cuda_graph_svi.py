"""A step of learning on a GPU: both of its halves are CUDA graphs.

The same numbers as :class:`~econ_pyro.infer.svi.CompetitiveSVI`, which the tests hold it to. The
host learns who won while the winners learn already, in the room that the last steps needed
(:mod:`econ_pyro.core.ensemble`): it has to leave the losers' gradients None, and where the room
was too small it has them learn once more.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Hashable
from typing import Any

import pyro
import torch
from torch import Tensor

from econ_pyro.accel.cuda_graphs import Graphs
from econ_pyro.accel.later import Later
from econ_pyro.core.ensemble import Room, fixed_room
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.selection import Winners
from econ_pyro.infer.svi import CompetitiveSVI
from econ_pyro.infer.terms import Terms

Grads = list[list[list[Tensor | None]]]  # of each ensemble, expert and parameter
SIXTEENTHS = (2, 3, 4, 5, 6, 8, 12, 16)  # of all there could be: room comes in few sizes
REMEMBERED = 16  # steps, of which the most room is given: learning twice costs more than room


class CapturedSVI(CompetitiveSVI):
    """A ``CompetitiveSVI`` of one process whose model, guide and images are on a GPU.

    Model and guide have to be this package's: their ensembles say whose gradients are whose.
    """

    model: Any
    guide: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # a pool of memory each: learning must not overwrite what the competition gave
        self._competitions, self._lessons, self._evaluations = Graphs(), Graphs(), Graphs()
        ensembles = (self.model.decoders, self.guide.encoders, self.guide.attentions)
        self._parameters = [[[*e.parameters()] for e in ensemble] for ensemble in ensembles]
        self._needed = deque[Room](maxlen=REMEMBERED)

    def elect(self, x: Tensor, regions: Tensor | None = None) -> Winners:
        """The first half of a step: all experts compete, without gradients."""
        noise, gumbel = self.draw(x)
        # what changes from step to step is an input: P(k) ~ exp(luck - score) is the same
        luck = self.rules.temperature * gumbel
        if self.handicap is not None:
            luck = luck - self.handicap
        rules = dataclasses.replace(self.rules, temperature=1.0)

        def run(x: Tensor, noise: Tensor, luck: Tensor, regions: Tensor | None) -> Winners:
            with pyro.validation_enabled(False):
                return self._elect(x, noise, rules, regions, None, luck)

        key = (rules, *self._fixed(x, regions))
        return Winners(*map(torch.clone, self._competitions(key, run, x, noise, luck, regions)))

    def _gradients(
        self, x: Tensor, w: Winners, regions: Tensor | None, luck: Tensor | None
    ) -> tuple[Tensor, Terms]:
        winners = Later(w.k)
        if not self._needed:
            self._remember(winners.get())
        gamma = torch.full((), self.elbo.gamma, dtype=x.dtype, device=x.device)
        given = (x, gamma, regions, luck, *w)
        room = self._room()
        loss, terms, grads = self._lesson(room, *given)
        k = winners.get()  # while they learn
        needed = self._remember(k)
        if needed.looks > room.looks or needed.layers > room.layers:
            loss, terms, grads = self._lesson(self._room(), *given)
        self._give_winners(grads, k)
        return loss.clone(), terms.map(torch.clone)

    def _remember(self, k: Tensor) -> Room:
        """The room that winners need."""
        self._needed.append(needed := room_for(k, self.rules.experts))
        return needed

    def _room(self) -> Room:
        """The most that any of the last steps needed."""
        return Room(*(max(rooms) for rooms in zip(*self._needed, strict=True)))

    def _lesson(
        self, room: Room, x: Tensor, gamma: Tensor, regions: Tensor | None, *given: Tensor | None
    ) -> tuple[Tensor, Terms, Grads]:
        def run(
            x: Tensor, gamma: Tensor, regions: Tensor | None, luck: Tensor | None, *w: Tensor
        ) -> tuple[Tensor, Terms, Grads]:
            with fixed_room(room), pyro.validation_enabled(False):
                loss, terms = self._backward(x, Winners(*w), regions, luck, gamma)
            grads = [[[p.grad for p in own] for own in experts] for experts in self._parameters]
            return loss, terms, grads

        key = (room, self.elbo.beta, *self._fixed(x, regions))
        return self._lessons(key, run, x, gamma, regions, *given)

    def explain(
        self, x: Tensor, regions: Tensor | None = None, refined: bool = False
    ) -> Decomposition:
        """As ``CompetitiveSVI.explain``; only what is not refined is captured."""
        if refined:
            return super().explain(x, regions, refined)
        explain = super().explain

        def run(x: Tensor, regions: Tensor | None) -> Decomposition:
            everyone = Room(len(x), len(x) * self.rules.steps)
            with fixed_room(everyone), pyro.validation_enabled(False):
                return explain(x, regions)

        rules = dataclasses.replace(self.rules, temperature=0.0)  # as it explains
        key = (rules, *self._fixed(x, regions))
        return self._evaluations(key, run, x, regions).clone()

    def _give_winners(self, grads: Grads, k: Tensor) -> None:
        """Leave the winners' gradients in their parameters, and None in those of all others."""
        won, attended = set(k.flatten().tolist()), set(k[:, :-1].flatten().tolist())
        winners = (won, won, attended)
        for winner, experts, theirs in zip(winners, self._parameters, grads, strict=True):
            for e, own in enumerate(experts):
                for p, grad in zip(own, theirs[e], strict=True):
                    p.grad = grad if e in winner else None

    def _fixed(self, x: Tensor, regions: Tensor | None) -> tuple[Hashable, ...]:
        return x.shape, x.dtype, regions is None, self.model.flat, self.amp, self.occlude


def room_for(k: Tensor, experts: int) -> Room:
    """Room for those who won the layers ``k``, ``(B, T)``, on the host, in one of few sizes."""
    own = k[:, :, None] == torch.arange(experts)  # (B, T, K)
    looks, layers = own[:, :-1].any(1).sum(0).max(), own.sum((0, 1)).max()
    return Room(_enough(int(looks), len(k)), _enough(int(layers), k.numel()))


def _enough(n: int, whole: int) -> int:
    return next(room for i in SIXTEENTHS if (room := -(-whole * i // 16)) >= n)
