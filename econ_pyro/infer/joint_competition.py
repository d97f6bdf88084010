r"""Competition for all things of a scene at once, where regions grow from seeds.

The guide names T - 1 things, and what they leave is the last layer. All experts explain every one
of them as if it came first, in one pass. What then has to be settled is the order, in which a
thing's expert and its cost depend on what comes before it, and that takes no network:

* the best expert's drawings make the order that makes the image likeliest
  (:func:`econ_pyro.infer.depth_order.arrange`);
* in that order, scopes are known, and with them what each expert's explanation costs there,
  :math:`\lambda L_x + KL(s_t a_t \| s_t m_t)`: who draws more than is seen of a thing pays nothing
  for what nearer things hide. A half-hidden square may have looked like a circle before.

Twice over, as the better expert may make another order; then winners are drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.accel.compile import fused
from econ_pyro.core.compositing import agreed, next_scope, region, regions_of_shapes, scopes
from econ_pyro.infer.decomposition import Decomposition, in_order
from econ_pyro.infer.depth_order import arrange
from econ_pyro.infer.proposals import (
    Generator,
    Proposals,
    Recogniser,
    Rules,
    propose_layers,
    visible_terms,
)
from econ_pyro.infer.selection import draw_winners

ROUNDS = 2  # of order and cost


@torch.no_grad()
def assign(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    handicap: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> tuple[Decomposition, Tensor]:
    """Order the things of each image, and let the experts compete for each.

    Args:
        model: p.
        guide: q, with seeds.
        x: images, ``(B, 3, H, W)`` in [0, 1].
        noise: of the latents, shared by the experts, ``(B, T, L)``; zeros give the means.
        rules: of the competition.
        handicap: nats added to each expert's scores before winners are drawn, ``(K,)``.
        gumbel: luck of each expert at each step, ``(B, T, K)``; drawn if not given.

    Returns:
        The layers as they competed, each looked at for itself, and the noise of their latents.
    """
    things, seed = _things(model, guide, x, noise, rules)  # (B, T, K, ...), the salient first
    scores = things.terms.score(rules.lam)  # (B, T, K), each as if it came first
    order = torch.arange(rules.steps, device=x.device).repeat(x.shape[0], 1)  # of the things
    drawn = (things.r, things.errors, things.shape, things.terms.z)
    for _ in range(ROUNDS):
        order, s, l_x, l_r = _settled(model, *drawn, scores, order, rules.ordered)
        terms = things.terms._replace(x=l_x, r=l_r)
        scores = terms.score(rules.lam)
    scores = in_order(scores, order)
    k = draw_winners(scores, rules.temperature, handicap, gumbel)
    won = things._replace(terms=terms).map(lambda a: _picked(a, order, k))
    r = region(s, won.r)
    layers = (k, s, r, won.mean, won.shape, won.z, won.terms, scores, in_order(seed, order))
    return Decomposition(x, *layers), in_order(noise, order)


def _things(
    model: Generator, guide: Recogniser, x: Tensor, noise: Tensor, rules: Rules
) -> tuple[Proposals, Tensor]:
    """All experts' proposals for each thing in a full scope, ``(B, T, K, ...)``, and its seed.

    The region of the last is what the others leave, as the experts agree; within the scope that
    is left in the end, it is everywhere.
    """
    steps = rules.steps
    left = full = torch.ones_like(x[:, :1])
    seed = torch.full_like(x[:, :1, 0, 0], -1, dtype=torch.long)
    r = full[:, None, None].expand(-1, 0, rules.experts, -1, -1, -1)
    if steps > 1:
        found, r = guide.candidates(x, full, steps - 1)
        seed = torch.cat([found, seed], 1)
        for r_t in r.unbind(1):
            left = next_scope(left, agreed(r_t))
    last = left[:, None, None].expand(-1, 1, rules.experts, -1, -1, -1)
    r = torch.cat([r, last], 1)
    fulls = full[:, None].expand(-1, steps, -1, -1, -1)
    things = propose_layers(model, guide, x, fulls, noise, rules, r)
    r = torch.cat([r[:, :-1], torch.ones_like(last)], 1)
    return things._replace(r=r), seed


@fused
def _settled(
    model: Generator,
    r: Tensor,
    errors: Tensor,
    shape: Tensor,
    l_z: Tensor,
    scores: Tensor,
    order: Tensor,
    ordered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A round: the order of the things by what the best experts draw, and all costs in it.

    Args:
        model: p.
        r: regions of the things, ``(B, T, K, 1, H, W)``.
        errors: of their pixels, alike.
        shape: alike.
        l_z: Eq. 11, ``(B, T, K)``.
        scores: by which the best are the best, ``(B, T, K)``.
        order: that they are in, ``(B, T)``.
        ordered: whether the order may change.

    Returns:
        The order, the scopes in it, and Eqs. 10 and 12 of the things, ``(B, T, K)`` each.
    """
    best = in_order(scores.argmin(2), order)
    if ordered:
        better, _ = arrange(*(_picked(a, order, best) for a in (errors, shape, l_z)))
        order, best = in_order(order, better), in_order(best, better)
    s = scopes(regions_of_shapes(_picked(r, order, best)))
    # what each thing finds left; the things themselves are large, and stay where they are
    left = in_order(s, order.argsort(1))[:, :, None]
    return order, s, *visible_terms(model, left, region(left, r), errors, shape)


def _picked(a: Tensor, order: Tensor, k: Tensor) -> Tensor:
    """What experts ``k`` say, ``(B, T)``, of things in an order: of ``(B, T, K, ...)``."""
    rows = torch.arange(order.shape[0], device=order.device)  # len() would fix an export's batch
    return a[rows[:, None], order, k]
