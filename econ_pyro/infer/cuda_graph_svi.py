"""A training step on a GPU, both halves of which are CUDA graphs.

The same numbers as :class:`~econ_pyro.infer.svi.CompetitiveSVI`, which the tests hold it to. The
host learns who won while the winners' graph is running already, at the capacity that the last
steps needed (:mod:`econ_pyro.accel.dispatch`): it has to leave the losers' gradients None, and
where the capacity was too small it runs the graph again at a larger one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor

from econ_pyro.accel.cuda_graphs import Graphs
from econ_pyro.accel.dispatch import Capacity, fixed_capacity
from econ_pyro.accel.overlap import HostCopy
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.infer.competition import Competition
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.svi import CompetitiveSVI

Grads = list[list[list[Tensor | None]]]  # of each ensemble, expert and parameter
SIXTEENTHS = (2, 3, 4, 5, 6, 8, 12, 16)  # of the largest capacity: few sizes, so few graphs
REMEMBERED = 16  # steps, of which the largest capacity is used: running twice costs more


class CudaGraphSVI(CompetitiveSVI):
    """A ``CompetitiveSVI`` of one process whose model, guide and images are on a GPU.

    Model and guide have to be this package's: their ensembles say whose gradients are whose.
    """

    model: Any
    guide: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # a pool of memory each: gradients must not overwrite what the competition found
        self._competitions, self._lessons, self._evaluations = Graphs(), Graphs(), Graphs()
        ensembles = (self.model.decoders, self.guide.encoders, self.guide.attentions)
        self._parameters = [[[*e.parameters()] for e in ensemble] for ensemble in ensembles]
        self._needed = deque[Capacity](maxlen=REMEMBERED)

    def compete(self, x: Tensor, evidence: Tensor | None = None) -> Selection:
        """The first half of a step: all experts compete, without gradients."""
        draws = self.draw(x)
        # what changes from step to step is an input: P(k) ~ exp(tau gumbel - bias - loss)
        gumbel = self.competition.temperature * draws.gumbel
        if self.competition.expert_bias is not None:
            gumbel = gumbel - self.competition.expert_bias
        competition = replace(self.competition, temperature=1.0, expert_bias=None)

        def run(
            x: Tensor,
            noise: Tensor,
            gumbel: Tensor,
            occlusion: Tensor | None,
            evidence: Tensor | None,
        ) -> Selection:
            given = Draws(noise, gumbel, occlusion)
            with pyro.validation_enabled(False), self.execution(x.device):
                return competition(self.model, self.guide, x, evidence, given)

        key = (_options(competition), *self._fixed(x, evidence))
        inputs = (x, draws.noise, gumbel, draws.occlusion, evidence)
        found = self._competitions(key, run, *inputs)
        return Selection(*(None if a is None else a.clone() for a in found))  # type: ignore[arg-type]

    def gradients(self, x: Tensor, won: Selection) -> tuple[Tensor, Terms]:
        """The second half: gradients of the winners; the loss and its terms, detached."""
        winners = HostCopy(won.k)
        if not self._needed:
            self._remember(winners.get())
        gamma = torch.as_tensor(self.elbo.gamma, dtype=x.dtype, device=x.device)
        capacity = self._capacity()
        loss, terms, grads = self._lesson(capacity, x, gamma, won)
        k = winners.get()  # while they learn
        needed = self._remember(k)
        if needed.images > capacity.images or needed.layers > capacity.layers:
            loss, terms, grads = self._lesson(self._capacity(), x, gamma, won)
        self._give_winners(grads, k)
        return loss.clone(), terms.map(torch.clone)

    def decompose(self, x: Tensor, evidence: Tensor | None = None) -> Decomposition:
        """Posterior means and the best expert for each layer, as the competition has it."""
        decompose = super().decompose

        def run(x: Tensor, evidence: Tensor | None) -> Decomposition:
            everyone = Capacity(len(x), len(x) * self.competition.num_slots)
            with fixed_capacity(everyone), pyro.validation_enabled(False):
                return decompose(x, evidence)

        competition = replace(self.competition, temperature=0.0, expert_bias=None)
        key = (_options(competition), *self._fixed(x, evidence))
        return self._evaluations(key, run, x, evidence).clone()

    def _remember(self, k: Tensor) -> Capacity:
        """The capacity that winners need."""
        self._needed.append(needed := capacity_for(k, self.model.num_experts))
        return needed

    def _capacity(self) -> Capacity:
        """The largest that any of the last steps needed."""
        return Capacity(*(max(sizes) for sizes in zip(*self._needed, strict=True)))

    def _lesson(
        self, capacity: Capacity, x: Tensor, gamma: Tensor, won: Selection
    ) -> tuple[Tensor, Terms, Grads]:
        def run(x: Tensor, gamma: Tensor, *won: Tensor | None) -> tuple[Tensor, Terms, Grads]:
            before, self.elbo.gamma = self.elbo.gamma, gamma
            try:
                with fixed_capacity(capacity), pyro.validation_enabled(False):
                    loss, terms = super(CudaGraphSVI, self).gradients(x, Selection(*won))  # type: ignore[arg-type]
            finally:
                self.elbo.gamma = before
            grads = [[[p.grad for p in own] for own in experts] for experts in self._parameters]
            return loss, terms, grads

        key = (capacity, self.elbo.beta, *self._fixed(x, won.evidence))
        return self._lessons(key, run, x, gamma, *won)

    def _give_winners(self, grads: Grads, k: Tensor) -> None:
        """Leave the winners' gradients in their parameters, and None in those of all others."""
        won, attended = set(k.flatten().tolist()), set(k[:, :-1].flatten().tolist())
        winners = (won, won, attended)
        for winner, experts, theirs in zip(winners, self._parameters, grads, strict=True):
            for e, own in enumerate(experts):
                for p, grad in zip(own, theirs[e], strict=True):
                    p.grad = grad if e in winner else None

    def _fixed(self, x: Tensor, evidence: Tensor | None) -> tuple[Hashable, ...]:
        constant = self.model.constant_colour
        return x.shape, x.dtype, evidence is None, constant, self.execution.amp


def _options(competition: Competition) -> Hashable:
    """What a graph of a competition depends on, apart from its inputs."""
    values = [(f.name, getattr(competition, f.name)) for f in fields(competition)]
    plain = [(n, _options(v) if is_dataclass(v) else v) for n, v in values]  # type: ignore[arg-type]
    return (type(competition), *plain)


def capacity_for(k: Tensor, experts: int) -> Capacity:
    """Capacity for the winners ``k``, ``(B, T)``, on the host, in one of few sizes."""
    own = k[:, :, None] == torch.arange(experts)  # (B, T, K)
    images, layers = own[:, :-1].any(1).sum(0).max(), own.sum((0, 1)).max()
    return Capacity(_enough(int(images), len(k)), _enough(int(layers), k.numel()))


def _enough(n: int, whole: int) -> int:
    return next(size for i in SIXTEENTHS if (size := -(-whole * i // 16)) >= n)
