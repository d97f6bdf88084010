"""A competition whose explanations are refined.

After the rounds of :mod:`econ_pyro.infer.refinement`, one local optimum is left. A layer that
stands too far in front is drawn as small as its region, as nothing is thought to hide it, and so
drawn it is likeliest in front. So each layer is explained once more as if all the others hid it
(:func:`move_behind`).

Where layers have covariances, one layer with a pattern may take two objects before there is a
second layer for the other, and nothing divides it again. Layers that were refined without
covariances at first, and with them then, end in another optimum; the better one is kept.

A part of the ground that is lighter or darker than the rest saves nats as a layer of its own. If
attention has learnt to group pixels, it knows better, and the layer is merged with the background
(:func:`merge_with_background`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from econ_pyro.core.distributions import PixelNoise
from econ_pyro.core.pixel_features import like_last
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.infer.competition import Competition, Contest, propose
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.depth_order import MARGIN
from econ_pyro.infer.division import divide_again
from econ_pyro.infer.mixture import PLAIN, Mixture, log_evidence
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.protocols import Guide, Model
from econ_pyro.infer.refinement import e_step, in_their_scopes, refine, refine_rounds, replaced


@dataclass
class Refined(Competition):
    """A competition whose explanations are refined; what it selects for training is unchanged.

    Args:
        inner: any competition.
        rounds: how often layers are refined.
        steps: of gradient ascent on the latents in each round.
        mixture: what the pixels are.
        divide: whether objects of one colour that touch are divided anew.
        merge: whether what is like the background in the guide's features goes to it.
        twice: where layers have covariances, whether to refine from a second start, too, whose
            layers are refined without them first; what makes an image likelier is kept.
    """

    inner: Competition | None = None
    rounds: int = 1
    steps: int = 0
    mixture: Mixture = PLAIN
    divide: bool = False
    merge: bool = False
    twice: bool = False

    @classmethod
    def of(cls, inner: Competition, **options: Any) -> Refined:
        """A competition, refined; with the options of this class."""
        own = (inner.lam, inner.temperature, inner.expert_bias, inner.occlusion)
        return cls(inner.num_slots, *own, inner=inner, **options)

    def __call__(
        self,
        model: Model,
        guide: Any,
        x: Tensor,
        evidence: Tensor | None = None,
        draws: Draws | None = None,
    ) -> Selection:
        """What the competition within selects."""
        return self._inner()(model, guide, x, evidence, draws)

    def _contest(
        self, model: Model, guide: Any, x: Tensor, draws: Draws, evidence: Tensor | None
    ) -> Contest:
        return self._inner().contest(model, guide, x, draws, evidence)

    def explain(
        self, model: Model, guide: Any, x: Tensor, draws: Draws, evidence: Tensor | None = None
    ) -> Decomposition:
        """The winners' explanation, refined."""
        d, noise = self.contest(model, guide, x, draws, evidence)
        draws = draws._replace(noise=noise)
        weight = self.mixture.feature_weight
        features = guide.pixel_features(x) if weight or self.merge else None
        mixture = replace(self.mixture, features=features if weight else None)
        found = self._refined(model, guide, d, draws, mixture, self.rounds)
        if self.twice and mixture.covariance:
            even = replace(mixture, covariance=0.0)
            other = self._refined(model, guide, d, draws, even, self.rounds)
            other = self._refined(model, guide, other, draws, mixture, math.ceil(self.rounds / 2))
            found = likelier(other, found, model.pixel_noise, mixture)
        if self.merge and features is not None:
            found = merge_with_background(model, found, features)
        return found

    def _refined(
        self,
        model: Model,
        guide: Any,
        d: Decomposition,
        draws: Draws,
        mixture: Mixture,
        rounds: int,
    ) -> Decomposition:
        """The local optimum that so many rounds from ``d`` end in."""
        oracle = OracleCompetition(self.num_slots, self.lam, self.temperature)
        how = (mixture, self.steps)
        d = refine_rounds(model, guide, d, draws, oracle, rounds, *how)
        if self.divide:
            d = divide_again(model, guide, d, self.lam, replace(mixture, features=None))
            d = refine(model, guide, d, draws, oracle, *how)
        return move_behind(model, guide, d, draws, self.lam, mixture)

    def _inner(self) -> Competition:
        """The competition within, at this one's temperature and with its bias."""
        assert self.inner is not None
        return replace(self.inner, temperature=self.temperature, expert_bias=self.expert_bias)


@torch.no_grad()
def likelier(
    other: Decomposition, d: Decomposition, noise: PixelNoise, mixture: Mixture = PLAIN
) -> Decomposition:
    """The other layers of each image where they make it likelier, else ``d``'s.

    Args:
        other: refined layers.
        d: refined layers of the same images.
        noise: of the pixels.
        mixture: what the pixels are.
    """
    better = _evidence(other, noise, mixture) > _evidence(d, noise, mixture) + MARGIN
    return other.where(better[:, None].expand_as(d.k), d)


def _evidence(d: Decomposition, noise: PixelNoise, mixture: Mixture) -> Tensor:
    return log_evidence(d, d.area > 0, noise, mixture)


@torch.no_grad()
def move_behind(
    model: Model,
    guide: Guide,
    d: Decomposition,
    draws: Draws,
    lam: float,
    mixture: Mixture = PLAIN,
) -> Decomposition:
    """Explain each layer as if all other objects were in front of it, and keep what is likelier.

    Its scope is then its region and the last layer's: the experts may draw the object on under the
    others at no cost. The order is found anew each time.

    Args:
        model: p.
        guide: q; its attention plays no part.
        d: refined layers.
        draws: noise of the latents; the likeliest expert is taken.
        lam: weight of L_x in the competition.
        mixture: what the pixels are.

    Returns:
        Layers as of :func:`refine`.
    """
    slots = d.k.shape[1]
    index = torch.arange(slots, device=d.k.device)
    likely = _evidence(d, model.pixel_noise, mixture)
    for t in reversed(range(slots - 1)):  # those that move back have had their turn
        r = d.region[:, t]
        s = (r + d.region[:, -1]).clamp(max=1)
        proposals = propose(model, guide, d.image, s, draws.noise[:, t], r)
        losses = proposals.terms.competition_loss(lam)
        won = proposals.of(losses.argmin(1))
        last = _last_but_one(t, slots).to(d.k.device).expand_as(d.k)
        anew = replaced(d, index == t, losses, won).in_order(last)
        anew, kept = e_step(anew, model.pixel_noise, mixture)
        found = log_evidence(anew, kept, model.pixel_noise, mixture)
        better = found > likely + MARGIN
        d = anew.where(better[:, None].expand(-1, slots), d)
        likely = torch.where(better, found, likely)
    return in_their_scopes(model, d)


@torch.no_grad()
def merge_with_background(model: Model, d: Decomposition, features: Tensor) -> Decomposition:
    """Leave to the last layer the regions of layers that are like it in their pixels' features.

    Args:
        model: p.
        d: refined layers.
        features: by which the guide groups pixels, ``(B, 1 + D, H, W)``.

    Returns:
        Layers as of :func:`refine`: those without a region come last but for the last one.
    """
    like = like_last(features, d.region)
    given = d.region * like[:, :, None, None, None]
    last = (d.region[:, -1] + given.sum(1)).clamp(max=1)[:, None]
    d = replace(d, region=torch.cat([(d.region - given)[:, :-1], last], 1))
    empty = (d.area == 0).to(torch.int8)
    empty[:, -1] = 2
    return in_their_scopes(model, d.in_order(empty.argsort(dim=1, stable=True)))


def _last_but_one(t: int, slots: int) -> Tensor:
    """The order in which layer t goes behind all but the last, ``(T,)``.

    The search for an order moves one layer at a time and does not get there from everywhere.
    """
    return torch.tensor([u for u in range(slots - 1) if u != t] + [t, slots - 1])
