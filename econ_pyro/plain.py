r"""The step of learning without any speed: what fast paths are tested and timed against.

All K experts are run with gradients, one after the other, and the terms of Eqs. 10-12 are written
out; neither Pyro nor :mod:`econ_pyro.terms` is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from econ_pyro.proposals import Rules

PROB_EPS, SCOPE_EPS = 1e-6, 1e-5


class PlainStep(NamedTuple):
    """What :func:`plain_loss` finds."""

    loss: Tensor
    """Eq. 13 as a loss, mean over scenes, differentiable."""
    k: Tensor
    """Winners, front to back, ``(B, T)``."""


def plain_loss(
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    rules: Rules,
    beta: float,
    gamma: float,
) -> PlainStep:
    """Competition and class-conditional ELBO in one pass.

    Args:
        model: with ``decoders``, K networks.
        guide: with ``attentions`` and ``encoders``, K networks each.
        x: images, ``(B, 3, H, W)``.
        noise: of the latents, ``(B, T, L)``.
        gumbel: luck of each expert at each step, ``(B, T, K)``.
        rules: of the competition.
        beta: weight of L_z.
        gamma: weight of L_r.
    """
    scope, total = torch.ones_like(x[:, :1]), x.new_zeros(len(x))
    winners: list[Tensor] = []
    for i in range(rules.steps):
        last = i == rules.steps - 1
        r, l_x, l_z, l_r, error, m = _all(model, guide, x, scope, noise[:, i], rules, last)
        scores = rules.lam * l_x + l_r
        if rules.lookahead and not last:
            _, end_x, _, end_r, errors, _ = _all(model, guide, x, scope, noise[:, i], rules, True)
            best = (end_x + end_r).argmin(1)
            rest = torch.stack([errors[b, k] for b, k in enumerate(best)])
            scores = _looked_ahead(scores, r, error, m, rest, scope, rules)
        scores = scores.detach().clone()
        if rules.distinct:
            for earlier in winners[i - i % rules.experts :]:
                scores[torch.arange(len(x)), earlier] = torch.inf
        if rules.temperature > 0:
            k = (gumbel[:, i] - scores / rules.temperature).argmax(1)
        else:
            k = scores.argmin(1)
        rows = torch.arange(len(x), device=x.device)
        total = total + (l_x + beta * l_z + gamma * l_r)[rows, k]
        scope = (scope - r[rows, k]).clamp_min(0.0)
        winners.append(k)
    return PlainStep(total.mean(), torch.stack(winners, 1))


def _looked_ahead(
    scores: Tensor, r: Tensor, error: Tensor, m: Tensor, rest: Tensor, scope: Tensor, rules: Rules
) -> Tensor:
    """Image by image and pair by pair what :mod:`econ_pyro.lookahead` does at once."""
    new = scores.clone()
    for b in range(len(scores)):
        saved = (r[b] * rest[b]).sum((1, 2, 3))
        if not rules.rollout:
            new[b] -= saved
            continue
        gain = saved - scores[b]
        pays = [k for k in range(rules.experts) if gain[k] > 0]
        for k in pays:
            least = scores[b, k]
            for j in pays:
                if j != k:
                    left = scope[b] - r[b, j]
                    r_k = r[b, k] * left / scope[b].clamp_min(SCOPE_EPS)
                    confined = rules.lam * (r_k * error[b, k]).sum()
                    confined = confined + _bernoulli_kl(r_k, left * m[b, k]).sum()
                    least = torch.minimum(least, confined)
            new[b, k] = scores[b, k] - least
        longest = torch.stack([new[b, k] for k in pays]).max() if pays else 0.0
        for k in set(range(rules.experts)) - set(pays):
            new[b, k] = longest + gain.max() - gain[k]
    return new


def _bernoulli_kl(q: Tensor, p: Tensor) -> Tensor:
    yes = q * ((q + PROB_EPS).log() - (p + PROB_EPS).log())
    return yes + (1 - q) * ((1 - q + PROB_EPS).log() - (1 - p + PROB_EPS).log())


def _all(
    model: Any, guide: Any, x: Tensor, scope: Tensor, noise: Tensor, rules: Rules, last: bool
) -> list[Tensor]:
    """What each expert makes of a step: fields of :func:`_one`, stacked along axis 1."""
    proposals = [
        _one(model, guide, k, x, scope, noise, rules.sigma_x, last) for k in range(rules.experts)
    ]
    return [torch.stack(part, 1) for part in zip(*proposals, strict=True)]


def _one(
    model: Any,
    guide: Any,
    k: int,
    x: Tensor,
    scope: Tensor,
    noise: Tensor,
    sigma: float,
    last: bool,
) -> tuple[Tensor, ...]:
    """Region, terms, error of each pixel and shape of one expert."""
    r = scope
    if not last:
        seen = torch.cat([x, scope.clamp_min(SCOPE_EPS).log()], 1)
        r = scope * guide.attentions[k](seen).sigmoid()
    out = guide.encoders[k](torch.cat([x, r.clamp_min(SCOPE_EPS).log()], 1))
    loc, log_scale = out.chunk(2, 1)[0], (out.chunk(2, 1)[1] / 2).clamp(-7.0, 3.0)
    decoded = model.decoders[k](loc + log_scale.exp() * noise).sigmoid()
    mean, p = decoded[:, :3], scope * decoded[:, 3:]
    error = ((x - mean) ** 2).sum(1, keepdim=True) / (2 * sigma**2)
    l_x = (r * error).sum((1, 2, 3))
    l_z = (0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale).sum(1)
    return r, l_x, l_z, _bernoulli_kl(r, p).sum((1, 2, 3)), error, decoded[:, 3:]
