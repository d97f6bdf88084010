r"""Competition for all things of a scene at once, where regions grow from seeds.

The guide names T - 1 things, and what they leave is the last layer. All experts explain every one
of them as if it came first, in one pass. What then has to be settled is the order, in which a
thing's expert and its cost depend on what comes before it, and that takes no network:

* the best expert's drawings make the order that makes the image likeliest
  (:func:`econ_pyro.mixture.arrange`);
* in that order, scopes are known, and with them what each expert's explanation costs there,
  :math:`\lambda L_x + KL(s_t a_t \| s_t m_t)`: who draws more than is seen of a thing pays nothing
  for what nearer things hide. A half-hidden square may have looked like a circle before.

Twice over, as the better expert may make another order; then winners are drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.decomposition import Decomposition, in_order
from econ_pyro.layers import agreed, next_scope, region, regions_of_shapes, scopes
from econ_pyro.mixture import arrange, pixel_errors
from econ_pyro.proposals import (
    Generator,
    Proposals,
    Recogniser,
    Rules,
    propose_layers,
    visible_terms,
)
from econ_pyro.terms import Terms
from econ_pyro.winners import draw_winners

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
    for _ in range(ROUNDS):
        best = things.of(scores.argmin(2))
        if rules.ordered:
            errors = pixel_errors(x, best.mean, rules.sigma_x)
            order, _ = arrange(errors, best.shape, best.terms.z)
            things, best = _in_order(things, order), _in_order(best, order)
            noise, seed = in_order(noise, order), in_order(seed, order)
        s = scopes(regions_of_shapes(best.r))
        things = things._replace(terms=_terms(model, x, things, s, rules))
        scores = things.terms.score(rules.lam)
    k = draw_winners(scores, rules.temperature, handicap, gumbel)
    won = things.of(k)
    r = region(s, won.r)
    return Decomposition(x, k, s, r, *won[1:], scores, seed), noise


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


def _in_order(things: Proposals, order: Tensor) -> Proposals:
    return things.map(lambda a: in_order(a, order))


def _terms(model: Generator, x: Tensor, things: Proposals, s: Tensor, rules: Rules) -> Terms:
    """Eqs. 10-12 of every expert's explanation of things in their scopes, ``(B, T, K)`` each."""
    s = s[:, :, None].expand_as(things.r)
    r = region(s, things.r)
    s, r, mean, shape = (a.flatten(1, 2) for a in (s, r, things.mean, things.shape))
    l_x, l_r = visible_terms(model, x, s, r, mean, shape, rules.sigma_x)
    l_x, l_r = (a.unflatten(1, things.r.shape[1:3]) for a in (l_x, l_r))
    return things.terms._replace(x=l_x, r=l_r)
