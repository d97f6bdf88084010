r"""Competition of experts (section 5.2): greedy, O(K T), and its exhaustive yardstick.

At each step all K experts propose an explanation of the remaining scope; one wins with

.. math:: P(k) \propto \exp(-(\lambda L_x(k) + L_r(k)) / \tau)

and the scope shrinks by its region (Eq. 14). tau = 1 is the paper, tau = 0 takes the best. No
gradient is computed here: learning sees only the winners, through the ELBO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from econ_pyro.decomposition import Decomposition
from econ_pyro.layers import fixed_region, next_scope
from econ_pyro.lookahead import ending, looked_ahead
from econ_pyro.proposals import Generator, Recogniser, Rules, propose
from econ_pyro.seeding import next_object
from econ_pyro.terms import Terms, stack


def draw_gumbel(shape: Sequence[int], like: Tensor) -> Tensor:
    """Standard Gumbel noise from torch's global generator: the luck of a competition."""
    return -torch.empty(tuple(shape), dtype=like.dtype, device=like.device).exponential_().log()


def draw_winners(scores: Tensor, temperature: float, gumbel: Tensor | None = None) -> Tensor:
    """Winner of each image: P(k) ~ exp(-score / temperature).

    Args:
        scores: ``(B, K)`` in nats, lower is better, handicaps included.
        temperature: 0 takes the best.
        gumbel: the luck of each expert, ``(B, K)``; drawn if not given.

    Returns:
        ``(B,)`` int64.
    """
    if temperature == 0:
        return scores.argmin(dim=1)
    if gumbel is None:
        gumbel = draw_gumbel(scores.shape, scores)
    return (gumbel - scores / temperature).argmax(dim=1)


@torch.no_grad()
def compete(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    regions: Tensor | None = None,
    handicap: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> Decomposition:
    """Explain images front to back, the experts competing at each step.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)`` in [0, 1].
        noise: of the latents, shared by the experts, ``(B, T, L)``; zeros give the means.
        rules: how winners are drawn.
        regions: true regions in place of attention, ``(B, T, 1, H, W)``.
        handicap: nats added to each expert's scores before winners are drawn, ``(K,)``.
        gumbel: luck of each expert at each step, ``(B, T, K)``; drawn if not given.
    """
    s_t = torch.ones_like(x[:, :1])
    layers: list[tuple[Tensor, ...]] = []
    terms: list[Terms] = []
    for i in range(rules.steps):
        r_t = fixed_region(s_t, i, rules.steps, regions)
        left = rules.steps - 1 - i
        seed = torch.full_like(x[:, 0, 0, 0], -1, dtype=torch.long)
        if guide.seeded and r_t is None:
            proposals, seed = next_object(model, guide, x, s_t, noise[:, i], rules, left)
        else:
            proposals = propose(model, guide, x, s_t, noise[:, i], rules, r_t)
        if rules.lookahead and not guide.seeded and r_t is None:
            end = ending(model, guide, x, s_t, noise[:, i], rules)
            scores = looked_ahead(proposals, end, model, x, s_t, rules, left)
        else:
            scores = proposals.terms.score(rules.lam)  # (B, K)
        handicapped = scores if handicap is None else scores + handicap
        luck = None if gumbel is None else gumbel[:, i]
        k_hat = draw_winners(handicapped, rules.temperature, luck)
        won = proposals.of(k_hat)
        terms.append(won.terms)
        layers.append((k_hat, s_t, *won[:4], scores, seed))
        s_t = next_scope(s_t, won.r)
    k, scope, r, mean, shape, z, scores, seeds = (
        torch.stack(parts, 1) for parts in zip(*layers, strict=True)
    )
    return Decomposition(x, k, scope, r, mean, shape, z, stack(terms, 1), scores, seeds)


class Exhaustive(NamedTuple):
    """The best assignment of experts to layers."""

    k: Tensor
    """``(B, T)``."""
    loss: Tensor
    """Its Eq. 13 (as a loss), ``(B,)`` nats."""


@torch.no_grad()
def exhaust(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Exhaustive:
    """Minimise Eq. 13 over all K^T assignments, to measure what greediness costs.

    Assignments that begin alike share their first layers, so the cost is K + K^2 + ... + K^T
    evaluations of one expert.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        noise: of the latents, ``(B, T, L)``.
        rules: numbers of experts and steps; lambda and temperature play no part.
        beta: weight of L_z.
        gamma: weight of L_r.
    """
    best_loss = torch.full((len(x),), float("inf"), dtype=x.dtype, device=x.device)
    best_k = torch.zeros(len(x), rules.steps, dtype=torch.long, device=x.device)

    def descend(prefix: list[int], s_t: Tensor, loss: Tensor) -> None:
        nonlocal best_loss, best_k
        i = len(prefix)
        if i == rules.steps:
            better = loss < best_loss
            best_loss = torch.where(better, loss, best_loss)
            best_k = torch.where(better[:, None], torch.tensor(prefix, device=x.device), best_k)
            return
        r_t = fixed_region(s_t, i, rules.steps, None)
        proposals = propose(model, guide, x, s_t, noise[:, i], rules, r_t)
        losses = proposals.terms.loss(beta, gamma)  # (B, K)
        for k in range(rules.experts):
            descend([*prefix, k], next_scope(s_t, proposals.r[:, k]), loss + losses[:, k])

    descend([], torch.ones_like(x[:, :1]), torch.zeros_like(best_loss))
    return Exhaustive(best_k, best_loss)
