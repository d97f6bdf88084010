"""A training step without this project's shortcuts: the baseline of ``scripts/benchmark.py``.

The same loss and the same competition as :class:`~econ_pyro.infer.svi.CompetitiveSVI`, with
gradients through all K experts, of which the winners' terms are gathered afterwards. It is written
as one would write it with some care: features of the images are computed once per step, and all
images (of a joint competition, all layers) are one batch for each network.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from econ_pyro.accel.amp import at_least_float32
from econ_pyro.core.compositing import next_scope, region, regions_of_shapes, scopes, with_log
from econ_pyro.core.distributions import pixel_errors
from econ_pyro.core.occlusion import occlude
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.errors import EconError
from econ_pyro.guides.amortized import AmortizedGuide, posterior
from econ_pyro.guides.region_growing import candidates, grow
from econ_pyro.guides.seeded import SeededGuide
from econ_pyro.infer.competition import Competition, GreedyCompetition, draw_winners
from econ_pyro.infer.elbo import ClassConditionalELBO, Terms, pixel_terms, stack
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.models.dead_leaves import DeadLeaves


def all_experts_loss(
    model: DeadLeaves,
    guide: AmortizedGuide,
    x: Tensor,
    draws: Draws,
    competition: Competition,
    elbo: ClassConditionalELBO,
) -> tuple[Tensor, Tensor]:
    """Eq. 13 negated, mean over scenes, and the winners.

    Args:
        model: p, without the constant-colour warm-up.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        draws: random numbers of the competition.
        competition: greedy, without occlusion, or joint.
        elbo: weights of the terms.

    Returns:
        A scalar in nats, differentiable, and the experts, ``(B, T)``.

    Raises:
        EconError: there is no baseline for that competition.
    """
    if isinstance(competition, JointCompetition) and isinstance(guide, SeededGuide):
        terms, k = _joint(model, guide, x, draws, competition)
    elif type(guide) is AmortizedGuide and isinstance(competition, GreedyCompetition):
        if draws.occlusion is not None:
            raise EconError("no occlusion in the baseline of a greedy competition", "some")
        terms, k = _greedy(model, guide, x, draws, competition)
    else:
        raise EconError("a greedy or a joint competition", type(competition).__name__)
    return elbo.loss_of(terms), k


def _greedy(
    model: DeadLeaves, guide: AmortizedGuide, x: Tensor, draws: Draws, competition: Competition
) -> tuple[Terms, Tensor]:
    """Terms of the winners, ``(B, T)``: what competes is what the winners learn from."""
    scope, layers, winners = torch.ones_like(x[:, :1]), [], []
    for i in range(competition.num_slots):
        r = scope[:, None].expand(-1, model.num_experts, -1, -1, -1)
        if i < competition.num_slots - 1:
            r = region(r, _each(guide.attentions, with_log(x, scope)).sigmoid())
        terms = _terms_of_all(model, guide, x, scope, r, draws.noise[:, i])
        losses = terms.competition_loss(competition.lam).detach()
        chance = competition.temperature, competition.expert_bias, draws.gumbel[:, i]
        k = draw_winners(losses, *chance)
        layers.append(terms.map(partial(_of, k=k)))
        winners.append(k)
        scope = next_scope(scope, _of(r, k))
    return stack(layers, 1), torch.stack(winners, 1)


def _joint(
    model: DeadLeaves, guide: SeededGuide, x: Tensor, draws: Draws, competition: Competition
) -> tuple[Terms, Tensor]:
    """Terms of the winners, ``(B, T)``: all experts explain each layer in the winners' scopes."""
    slots, experts = competition.num_slots, model.num_experts
    features = _each(guide.attentions, with_log(x, torch.ones_like(x[:, :1])))  # (B, K, D, H, W)
    known: Any = _KnownFeatures(guide, features.detach())
    won: Selection = competition(model, known, x, None, draws)

    assert won.seed_pixel is not None
    seeds = won.seed_pixel[:, :-1, None].expand(-1, -1, experts)  # (B, T - 1, K)
    of_layers = features[:, None].expand(-1, slots - 1, -1, -1, -1, -1)
    attention = grow(of_layers.flatten(0, 2), seeds.flatten()).sigmoid()
    attention = attention.unflatten(0, seeds.shape)
    attention = torch.cat([attention, torch.ones_like(attention[:, :1])], 1)
    scope = scopes(regions_of_shapes(_of_layers(attention, won.k)))
    r = region(scope[:, :, None], attention)

    images = x.repeat_interleave(slots, 0)
    occluder = None if won.occluder is None else won.occluder.flatten(0, 1)
    s_t, r_t, noise = (a.flatten(0, 1) for a in (scope, r, won.noise))
    terms = _terms_of_all(model, guide, images, s_t, r_t, noise, occluder)
    return terms.map(lambda a: _of_layers(a.unflatten(0, won.k.shape), won.k)), won.k


def _terms_of_all(
    model: DeadLeaves,
    guide: AmortizedGuide,
    x: Tensor,
    scope: Tensor,
    r: Tensor,
    noise: Tensor,
    occluder: Tensor | None = None,
) -> Terms:
    """Eqs. 10-12 of every expert for n layers, ``(n, K)`` each.

    Args:
        model: p.
        guide: q.
        x: the image of each layer, ``(n, 3, H, W)``.
        scope: ``(n, 1, H, W)``.
        r: every expert's region, ``(n, K, 1, H, W)``.
        noise: of the latent, ``(n, L)``.
        occluder: what encoders see in front, ``(n, 4, H, W)``.
    """
    n, experts = r.shape[:2]
    seen = x.repeat_interleave(experts, 0), r.flatten(0, 1)
    if occluder is not None:
        seen = occlude(*seen, occluder.repeat_interleave(experts, 0))
    inputs = [part.unflatten(0, (n, experts)) for part in guide.view(*seen)]
    q_z = posterior(_each(guide.encoders, *inputs, shared=False), noise[:, None])
    decoded = _each(model.decoders, q_z.rsample(), shared=False)
    mean, shape = decoded.split([3, 1], 2)
    errors = pixel_errors(x, mean, model.pixel_noise)
    l_x, l_r = pixel_terms(model, scope[:, None], r, errors, shape)
    return Terms(l_x, kl_divergence(q_z, model.latent_prior(n, experts)), l_r)


def _each(networks: nn.ModuleList, *inputs: Tensor, shared: bool = True) -> Tensor:
    """Output of every network, ``(n, K, ...)``, for shared inputs or those of each."""
    outputs = [
        network(*(a if shared else a[:, e] for a in inputs)) for e, network in enumerate(networks)
    ]
    return at_least_float32(torch.stack(outputs, 1))


def _of(a: Tensor, k: Tensor) -> Tensor:
    """Values ``(n, K, ...)`` of the experts k, ``(n,)``."""
    return a[torch.arange(len(k), device=k.device), k]


def _of_layers(a: Tensor, k: Tensor) -> Tensor:
    """The same of layers: values ``(B, T, K, ...)`` of the experts k, ``(B, T)``."""
    return _of(a.flatten(0, 1), k.flatten()).unflatten(0, k.shape)


class _KnownFeatures:
    """A guide for the competition, whose features of the images are known."""

    def __init__(self, guide: SeededGuide, features: Tensor) -> None:
        self._guide, self._features = guide, features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guide, name)

    def candidates(self, x: Tensor, s_t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        return candidates(self._features, x, s_t, n)
