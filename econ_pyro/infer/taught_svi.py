"""A training step in which attention is taught: competition, E-step, gradients.

The E-step and what attention learns from it are in :mod:`econ_pyro.infer.teaching`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from econ_pyro.accel.execution import Execution
from econ_pyro.config import AugmentConfig
from econ_pyro.core.corruptions import augment
from econ_pyro.core.handlers import one_at_a_time
from econ_pyro.core.occlusion import draw_occluders
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.errors import EconError
from econ_pyro.infer.competition import Competition
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import ClassConditionalELBO, Terms
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.refinement import e_step, refine_rounds
from econ_pyro.infer.svi import CompetitiveSVI, ElboTerms, Step
from econ_pyro.infer.teaching import (
    Lesson,
    Scenes,
    divergence,
    leftover,
    lesson,
    recomposed,
    scenes_of,
)


@dataclass
class Teaching:
    """How attention is taught.

    Args:
        weight: of KL(r* || s a); 0 teaches nothing.
        seeds: a guide whose regions need no attention, with the encoders of the guide that learns.
        first: the competition for the regions of ``seeds``.
        augment: how networks see the images that the teacher sees clean.
        rounds: how often layers are refined before a model that teaches itself learns from them.
        recomposed: share of the lessons that are of scenes put together from the batch's layers;
            the number of such lessons in a batch is rounded.
        recoloured: share of the objects in those scenes that are recoloured.
        leftovers: share of the lessons in which objects that were taken leave a part of
            themselves.
        seeded: whether the teacher's regions are those of ``seeds``; else the model teaches
            itself.
    """

    weight: float
    seeds: Any
    first: JointCompetition
    augment: AugmentConfig
    rounds: int = 1
    recomposed: float = 0.0
    recoloured: float = 0.0
    leftovers: float = 0.0
    seeded: bool = True


class TaughtSVI(CompetitiveSVI):
    """Competition, E-step, then gradients of the ELBO at its regions and of the teaching term.

    The teacher takes the images apart: at first by regions that grow from seeds, then by the
    attention that learns. Encoders and decoders learn from the seeds' regions in the first case,
    and from those of the E-step in the second; attention always learns from the E-step. Where the
    weight is 0, it learns nothing from seeds, and from the ELBO alone once they have left.

    Args:
        model: as of :class:`~econ_pyro.infer.svi.CompetitiveSVI`.
        guide: alike, with ``attention_logits``.
        optim: alike.
        elbo: alike.
        competition: of the regions that attention proposes.
        teaching: how attention is taught.
        execution: as of :class:`~econ_pyro.infer.svi.CompetitiveSVI`.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        optim: Optimizer,
        elbo: ClassConditionalELBO,
        competition: Competition,
        teaching: Teaching,
        execution: Execution | None = None,
    ) -> None:
        super().__init__(model, guide, optim, elbo, competition, execution)
        self.teaching = teaching
        self.divergence = torch.zeros(())  # KL(r* || s a) of the last step, mean over scenes

    def update(self, x: Tensor, evidence: Tensor | None = None) -> Step:
        """One training step."""
        if evidence is not None:
            hint = "leave them out, or train with --teaching.kind none and --gt-masks"
            raise EconError("no true regions where attention is taught", "some", hint)
        draws = self.draw(x)
        with self.execution(x.device):
            explained, won, taught = self._teacher(x, draws)
        loss, terms = self._learn(explained, won, taught)
        self.optim.step()
        return Step(loss, terms, won.k, won.area / x[0, 0].numel())

    @torch.no_grad()
    def _teacher(self, x: Tensor, draws: Draws) -> tuple[Tensor, Selection, Lesson | None]:
        """Images, what encoders and decoders learn from, and what attention learns from."""
        teaching = self.teaching
        d, best, noise = self._by_seeds(x, draws) if teaching.seeded else self._by_itself(x, draws)
        seen, explained = augment(x, best.region, teaching.augment)
        # without a teacher, attention proposes the regions, and learns from the ELBO alone
        evidence = d.region if teaching.seeded or teaching.weight else None
        occluder = None
        if draws.occlusion is not None:
            share = self.competition.occlusion
            occluder = draw_occluders(seen, d.region, draws.occlusion, share)
        losses = d.competition_losses
        won = Selection(d.k, noise, None, losses, d.region, evidence, occluder, seen)
        taught = self._lesson(seen, best) if teaching.weight else None
        return explained, won, taught

    def _by_seeds(self, x: Tensor, draws: Draws) -> tuple[Decomposition, Decomposition, Tensor]:
        """Layers that grew from seeds, the same with the E-step's regions, and their noise."""
        first, own = self.teaching.first, self.competition
        first = replace(first, temperature=own.temperature, expert_bias=own.expert_bias)
        model: Any = self.model
        d, noise = first.contest(model, self.teaching.seeds, x, draws)
        return d, self._e_step(d), noise

    def _by_itself(self, x: Tensor, draws: Draws) -> tuple[Decomposition, Decomposition, Tensor]:
        """Layers that attention found, the same with the E-step's regions, and their noise.

        Where attention is taught, both are the refined layers.
        """
        competition = self.competition
        model: Any = self.model
        guide: Any = self.guide
        d, noise = competition.contest(model, guide, x, draws)
        if not self.teaching.weight:
            return d, self._e_step(d), noise
        given = (competition.num_slots, competition.lam, competition.temperature)
        oracle = OracleCompetition(*given, competition.expert_bias)
        best = refine_rounds(model, guide, d, draws, oracle, self.teaching.rounds)
        return best, best, noise

    def _e_step(self, d: Decomposition) -> Decomposition:
        model: Any = self.model
        return e_step(d, model.pixel_noise)[0]

    def _learn(self, x: Tensor, won: Selection, taught: Lesson | None) -> tuple[Tensor, Terms]:
        self.optim.zero_grad(set_to_none=True)
        with self._learning(x.device):
            *of_layers, taught_terms = self._terms(x, won, taught)
            terms = Terms(*of_layers)
            loss = self.elbo.loss_of(terms)
            total = loss + self.teaching.weight * taught_terms.mean()
        total.backward()
        self.divergence = taught_terms.detach().mean()
        return loss.detach(), terms.map(torch.Tensor.detach)

    def _lesson(self, seen: Tensor, best: Decomposition) -> Lesson:
        """Of the scenes themselves, and of some that are put together from their layers."""
        scenes, (n, slots) = scenes_of(best), best.k.shape
        own = self._draw_lesson(seen, scenes)
        if not (m := round(self.teaching.recomposed * n)):
            return own
        new = recomposed(scenes, best.mean, slots + 1, self.teaching.recoloured)
        new = Scenes(*(a[:m] for a in new))
        seen = augment(new.image, new.region, self.teaching.augment).seen
        further = self._draw_lesson(seen, new)
        return Lesson(*(torch.cat([a[m:], b]) for a, b in zip(own, further, strict=True)))

    def _draw_lesson(self, seen: Tensor, scenes: Scenes) -> Lesson:
        model: Any = self.model
        left, share = None, self.teaching.leftovers
        if share:
            left = leftover(scenes.region, self._uniform(seen, 4), share)
        uniform = self._uniform(seen, scenes.k.shape[1] + 1)
        return lesson(seen, scenes, model.num_experts, uniform, left)

    def _uniform(self, x: Tensor, width: int) -> Tensor:
        """Random numbers for lessons: this process's share of what all draw alike."""
        group = self.execution.group
        with one_at_a_time():
            return group.share(torch.rand(len(x) * group.size, width).to(x))

    def _terms_module(self) -> _TaughtTerms:
        return _TaughtTerms(self.model, self.guide, self.elbo)


class _TaughtTerms(ElboTerms):
    """The ELBO's terms, and what attention has still to learn."""

    def forward(self, x: Tensor, won: Selection, taught: Lesson | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        terms = super().forward(x, won)
        if taught is None:
            return (*terms, torch.zeros_like(terms[0][:, 0]))
        return (*terms, divergence(self.guide, taught))
