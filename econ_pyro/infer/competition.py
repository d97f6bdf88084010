r"""Competition of experts (section 5.2): greedy, O(K T), and its exhaustive yardstick.

At each step all K experts propose an explanation of the remaining scope; one wins with

.. math:: P(k) \propto \exp(-(\lambda L_x(k) + L_r(k)) / \tau)

and the scope shrinks by its region (Eq. 14). tau = 1 is the paper, tau = 0 takes the best. No
gradient is computed here: learning sees only the winners, through the ELBO. Where regions grow
from seeds, the things of a scene are known before any is taken, and the experts compete for all at
once (:mod:`econ_pyro.infer.joint_competition`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from econ_pyro.core.compositing import fixed_region, next_scope, scopes
from econ_pyro.core.tensors import fitted
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.joint_competition import assign
from econ_pyro.infer.proposals import Generator, Recogniser, Rules, propose, propose_layers
from econ_pyro.infer.reconstruction import account
from econ_pyro.infer.selection import Winners, draw_winners
from econ_pyro.infer.terms import Terms, stack


@torch.no_grad()
def contest(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    regions: Tensor | None = None,
    handicap: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> tuple[Decomposition, Tensor]:
    """Let the experts compete for each layer.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)`` in [0, 1].
        noise: of the latents, shared by the experts, ``(B, T, L)``; zeros give the means.
        rules: how winners are drawn.
        regions: true regions in place of attention, ``(B, T, 1, H, W)``.
        handicap: nats added to each expert's scores before winners are drawn, ``(K,)``.
        gumbel: luck of each expert at each step, ``(B, T, K)``; drawn if not given.

    Returns:
        The layers as they competed, and the noise of their latents. From seeds, each layer was
        looked at for itself: :func:`compete` gives the account in the scopes.

    Raises:
        EconError: shapes do not fit.
    """
    _check(x, noise, rules, regions, handicap, gumbel)
    if regions is not None:
        return _of_regions(model, guide, x, noise, rules, regions, handicap, gumbel), noise
    if guide.seeded:
        return assign(model, guide, x, noise, rules, handicap, gumbel)
    return _step_by_step(model, guide, x, noise, rules, handicap, gumbel), noise


def elect(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    regions: Tensor | None = None,
    handicap: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> Winners:
    """What a step of learning has to know of a :func:`contest`; the ELBO gives the account."""
    d, noise = contest(model, guide, x, noise, rules, regions, handicap, gumbel)
    return Winners(d.k, noise, d.seed, d.scores, d.region)


@torch.no_grad()
def compete(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    regions: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> Decomposition:
    """Explain images by the winners, as the ELBO does: arguments as for :func:`contest`."""
    d, noise = contest(model, guide, x, noise, rules, regions, gumbel=gumbel)
    if regions is not None or not guide.seeded:
        return d  # they competed in the scopes
    layers = account(model, guide, x, d.k, rules.sigma_x, noise, seeds=d.seed)
    return Decomposition(x, d.k, *layers, d.scores, d.seed)


def _check(
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    regions: Tensor | None = None,
    handicap: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> None:
    """Check that what torch would broadcast, or leave out in part, is of all layers of x."""
    layered = (x.shape[0], rules.steps)
    fitted("noise", noise, (*layered, noise.shape[-1]), x)
    if regions is not None:
        fitted("regions", regions, (*layered, 1, *x.shape[2:]), x)
    if handicap is not None:
        fitted("handicap", handicap, (rules.experts,), x)
    if gumbel is not None:
        fitted("gumbel", gumbel, (*layered, rules.experts), x)


def _step_by_step(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    handicap: Tensor | None,
    gumbel: Tensor | None,
) -> Decomposition:
    """As published, front to back, each step in the scope that the winners before it left."""
    s_t = torch.ones_like(x[:, :1])
    layers: list[tuple[Tensor, ...]] = []
    terms: list[Terms] = []
    for i in range(rules.steps):
        r_t = fixed_region(s_t, i, rules.steps, None)
        proposals = propose(model, guide, x, s_t, noise[:, i], rules, r_t)
        scores = proposals.terms.score(rules.lam)  # (B, K)
        luck = None if gumbel is None else gumbel[:, i]
        k_hat = draw_winners(scores, rules.temperature, handicap, luck)
        won = proposals.of(k_hat)
        terms.append(won.terms)
        layers.append((k_hat, s_t, won.r, won.mean, won.shape, won.z, scores))
        s_t = next_scope(s_t, won.r)
    k, scope, r, mean, shape, z, scores = (
        torch.stack(parts, 1) for parts in zip(*layers, strict=True)
    )
    none = torch.full_like(k, -1)
    return Decomposition(x, k, scope, r, mean, shape, z, stack(terms, 1), scores, none)


def _of_regions(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    noise: Tensor,
    rules: Rules,
    regions: Tensor,
    handicap: Tensor | None,
    gumbel: Tensor | None,
) -> Decomposition:
    """For regions that are given: no step has to wait for another."""
    scope = scopes(regions)
    everyone = propose_layers(model, guide, x, scope, noise, rules, regions)
    scores = everyone.terms.score(rules.lam)  # (B, T, K)
    k = draw_winners(scores, rules.temperature, handicap, gumbel)
    won = everyone.of(k)
    none = torch.full_like(k, -1)
    return Decomposition(x, k, scope, won.r, won.mean, won.shape, won.z, won.terms, scores, none)


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

    Raises:
        EconError: shapes do not fit.
    """
    _check(x, noise, rules)
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
