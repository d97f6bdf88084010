"""A step of learning by competition, in the manner of ``pyro.infer.SVI``."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from econ_pyro.accel.compile import fusing
from econ_pyro.accel.packed import PackedAdam
from econ_pyro.accel.side_by_side import separate_graphs
from econ_pyro.core.handlers import one_at_a_time
from econ_pyro.core.occlusion import draw_occluders
from econ_pyro.infer.competition import compete, elect
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.proposals import Rules
from econ_pyro.infer.refinement import explain
from econ_pyro.infer.selection import Winners, draw_gumbel
from econ_pyro.infer.terms import Terms
from econ_pyro.training.distributed import World


class Step(NamedTuple):
    """What a step of learning saw, detached."""

    loss: Tensor
    """Eq. 13 as a loss, mean over scenes, a scalar in nats."""
    terms: Terms
    """Of the winners, ``(B, T)``."""
    k: Tensor
    """The winners, front to back, ``(B, T)``."""
    area: Tensor
    """Of what each took, ``(B, T)`` as a fraction of the image."""


class CompetitiveSVI:
    """Greedy stochastic competition, then a gradient step of the class-conditional ELBO.

    The competition runs without gradients on all K experts; the ELBO runs through Pyro's traces
    on the winners alone, with the same noise. Losers are not in the graph: their gradients are
    None and the optimiser leaves them bit-unchanged. Gradients do flow through the scope to
    the attention of earlier winners.

    Args:
        model: p, callable as ``model(x, k, noise, regions, seeds, occluders)``, with the methods
            of :class:`~econ_pyro.infer.proposals.Generator`.
        guide: q, callable alike, with those of :class:`~econ_pyro.infer.proposals.Recogniser`.
        optim: a torch optimiser over the parameters of both; None only evaluates.
        elbo: the objective.
        rules: the competition in training; at evaluation the best expert wins.
        latent: dimension L of a latent.
        amp: run the networks in bfloat16.
        clip: largest gradient norm; 0 does not clip.
        world: the processes that share each batch; ``step`` then takes this one's share of it.
        occlude: share of the layers of which the encoder sees only a part in a step of learning
            (:mod:`econ_pyro.core.occlusion`).
        compiled: compile what pays (:mod:`econ_pyro.accel.compile`).

    Attributes:
        handicap: nats added to each expert's scores in training, ``(K,)``; None adds nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        optim: Optimizer | None,
        elbo: ClassConditionalELBO,
        rules: Rules,
        latent: int,
        amp: bool = False,
        clip: float = 0.0,
        world: World | None = None,
        occlude: float = 0.0,
        compiled: bool = False,
    ) -> None:
        self.model, self.guide, self.optim, self.elbo = model, guide, optim, elbo
        self.rules, self.latent, self.amp, self.clip = rules, latent, amp, clip
        self.world, self.occlude, self.compiled = world or World(), occlude, compiled
        self._terms: nn.Module = _WinnersTerms(model, guide, elbo)
        if self.world.size > 1 and optim is not None:
            # experts that lost in all processes keep their gradients of None
            self._terms = DistributedDataParallel(self._terms, find_unused_parameters=True)
        self.last: Step | None = None
        self.handicap: Tensor | None = None

    def _precision(self, x: Tensor) -> torch.autocast:
        # one context a pass: it casts each weight once; its cache must not outlive no_grad
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp)

    def step(self, x: Tensor, regions: Tensor | None = None) -> float:
        """One step of learning.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            regions: true regions in place of attention, ``(B, T, 1, H, W)``.

        Returns:
            The loss: Eq. 13 negated, mean over scenes, in nats. Details are in ``last``.
        """
        return self.learn(x, self.elect(x, regions), regions).loss.item()

    def elect(self, x: Tensor, regions: Tensor | None = None) -> Winners:
        """The first half of a step: all experts compete, without gradients."""
        noise, gumbel = self.draw(x)
        return self._elect(x, noise, self.rules, regions, self.handicap, gumbel)

    def _elect(self, x: Tensor, *given: Any) -> Winners:
        """:func:`~econ_pyro.infer.competition.elect`, whose further arguments are given."""
        with self._precision(x), fusing(self.compiled):
            return elect(self.model, self.guide, x, *given)  # type: ignore[arg-type]

    def learn(self, x: Tensor, w: Winners, regions: Tensor | None = None) -> Step:
        """The second half: the winners alone learn. Arguments as of :meth:`step`.

        Returns:
            ``last``. Nothing waits for a GPU to have computed it.
        """
        if self.optim is None:
            raise RuntimeError("this CompetitiveSVI has no optimiser: it can only evaluate")
        luck = None
        if self.occlude:
            scenes = len(x) * self.world.size
            with one_at_a_time():
                luck = torch.rand(scenes, self.rules.steps, 4, dtype=x.dtype, device=x.device)
            luck = self.world.share(luck)
        loss, terms = self._gradients(x, w, regions, luck)
        if self.clip:
            if isinstance(self.optim, PackedAdam):
                self.optim.collect()
            parameters = [p for group in self.optim.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optim.step()
        self.last = Step(loss, terms, w.k, w.area / x[0, 0].numel())
        return self.last

    def _gradients(
        self, x: Tensor, w: Winners, regions: Tensor | None, luck: Tensor | None
    ) -> tuple[Tensor, Terms]:
        """Leave gradients in the parameters of the winners; the loss and its terms, detached."""
        return self._backward(x, w, regions, luck, self.elbo.gamma)

    def _backward(
        self,
        x: Tensor,
        w: Winners,
        regions: Tensor | None,
        luck: Tensor | None,
        gamma: float | Tensor,
    ) -> tuple[Tensor, Terms]:
        assert self.optim is not None
        self.optim.zero_grad(set_to_none=True)
        # the optimiser holds the parameters: nothing goes into Pyro's global store
        local = pyro.settings.context(module_local_params=True)
        with (
            self._precision(x),
            one_at_a_time(),
            local,
            fusing(self.compiled),
            separate_graphs(),
        ):
            front = None if luck is None else draw_occluders(x, w.region, luck, self.occlude)
            terms = Terms(*self._terms(x, w.k, w.noise, regions, w.seed, front))
            loss = terms.loss(self.elbo.beta, gamma).sum(dim=1).mean()
        loss.backward()
        return loss.detach(), terms.map(torch.Tensor.detach)

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of the latents and luck of the experts for a step.

        Args:
            x: this process's images, ``(B, 3, H, W)``.

        Returns:
            Standard normal ``(B, T, L)`` and standard Gumbel ``(B, T, K)``, its share of what all
            processes draw alike.
        """
        scenes, steps = len(x) * self.world.size, self.rules.steps
        with one_at_a_time():  # another thread may draw from a seed of its own
            noise = torch.randn(scenes, steps, self.latent, dtype=x.dtype, device=x.device)
            gumbel = draw_gumbel((scenes, steps, self.rules.experts), x)
        return self.world.share(noise), self.world.share(gumbel)

    def explain(
        self, x: Tensor, regions: Tensor | None = None, refined: bool = False
    ) -> Decomposition:
        """Decompose with posterior means and the best expert at each step; draws no noise.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            regions: true regions in place of attention, ``(B, T, 1, H, W)``.
            refined: put right what was found by the likelihood of all layers.
        """
        noise = x.new_zeros(len(x), self.rules.steps, self.latent)
        rules = dataclasses.replace(self.rules, temperature=0.0)
        with self._precision(x):
            if refined and regions is None:
                return explain(self.model, self.guide, x, noise, rules)  # type: ignore[arg-type]
            return compete(self.model, self.guide, x, noise, rules, regions)  # type: ignore[arg-type]

    def evaluate_loss(self, x: Tensor, regions: Tensor | None = None) -> float:
        """Eq. 13 negated under deterministic competition, mean over scenes, in nats."""
        terms = self.explain(x, regions).terms
        return terms.loss(self.elbo.beta, self.elbo.gamma).sum(dim=1).mean().item()


class _WinnersTerms(nn.Module):
    """The ELBO's terms as a module, the unit that torch distributes."""

    def __init__(self, model: nn.Module, guide: nn.Module, elbo: ClassConditionalELBO) -> None:
        super().__init__()
        self.model, self.guide, self.elbo = model, guide, elbo
        # a leaf, always 0, of every loss: where only frozen experts won there is a graph too, and
        # this process's share of the gradients of the others
        device = next(model.parameters()).device
        self.anchor = nn.Parameter(torch.zeros((), device=device))

    def forward(
        self,
        x: Tensor,
        k: Tensor,
        noise: Tensor,
        regions: Tensor | None,
        seeds: Tensor,
        occluders: Tensor | None,
    ) -> tuple[Tensor, ...]:
        given = (x, k, noise, regions, seeds, occluders)
        l_x, l_z, l_r = self.elbo.terms(self.model, self.guide, *given)
        return l_x + self.anchor, l_z, l_r
