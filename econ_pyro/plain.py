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
        left = rules.steps - 1 - i
        seen = (model, guide, x, scope, noise[:, i], rules)
        if left and guide.seeded:
            seed = _next_seed(*seen, left)
            regions = [_grown(guide, k, x, scope, seed) for k in range(rules.experts)]
        elif left:
            attentions: Any = guide.attentions
            regions = [scope * network(_seen(x, scope)).sigmoid() for network in attentions]
        else:
            regions = [scope] * rules.experts
        r, l_x, l_z, l_r, error, m = _all(*seen, regions)
        scores = rules.lam * l_x + l_r
        if rules.lookahead and left and not guide.seeded:
            own = (r[:, :, None], error[:, :, None], m[:, :, None])
            scores = _looked_ahead(scores, r, _rest(*seen), own, scope, rules, left)
        scores = scores.detach()
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
    scores: Tensor,
    r: Tensor,
    rest: Tensor,
    ways: tuple[Tensor, ...],
    scope: Tensor,
    rules: Rules,
    steps: int,
) -> Tensor:
    """Image by image and pair by pair what :mod:`econ_pyro.lookahead` does at once.

    Of the K things that could be taken ``r`` is the region; ``ways`` are regions, errors and
    shapes, ``(B, K, A, 1, H, W)``, in which each could be explained later.
    """
    new = scores.clone()
    for b in range(len(scores)):
        saved = (r[b] * rest[b]).sum((1, 2, 3))
        if not rules.rollout:
            new[b] -= saved
            continue
        gain = saved - scores[b]
        ranked = sorted(range(len(gain)), key=lambda k: -gain[k].item())
        pays = sorted(k for k in ranked[:steps] if gain[k] > 0)
        for k in pays:
            least = scores[b, k]
            for j in pays:
                if j != k:
                    left = scope[b] - r[b, j]
                    for r_k, error, m in zip(*(part[b, k] for part in ways), strict=True):
                        r_k = r_k * left / scope[b].clamp_min(SCOPE_EPS)
                        confined = rules.lam * (r_k * error).sum()
                        confined = confined + _bernoulli_kl(r_k, left * m).sum()
                        least = torch.minimum(least, confined)
            new[b, k] = scores[b, k] - least
        longest = torch.stack([new[b, k] for k in pays]).max() if pays else 0.0
        for k in set(range(len(gain))) - set(pays):
            new[b, k] = longest + gain.max() - gain[k]
    return new


def _rest(model: Any, guide: Any, x: Tensor, scope: Tensor, noise: Tensor, rules: Rules) -> Tensor:
    """Error of each pixel under the best expert for all that is left."""
    rest = [scope] * rules.experts
    _, l_x, _, l_r, error, _ = _all(model, guide, x, scope, noise, rules, rest)
    return torch.stack([error[b, k] for b, k in enumerate((l_x + l_r).argmin(1))])


@torch.no_grad()
def _next_seed(
    model: Any, guide: Any, x: Tensor, scope: Tensor, noise: Tensor, rules: Rules, left: int
) -> Tensor:
    """Candidate by candidate what :mod:`econ_pyro.seeding` does at once."""
    if not (rules.lookahead and rules.rollout):
        return _salient_seed(x, scope)
    remaining, seeds, best, ways = scope, [], [], []
    rows = torch.arange(len(x), device=x.device)
    for _ in range(left):
        seed = _salient_seed(x, remaining)
        grown = [_grown(guide, k, x, scope, seed) for k in range(rules.experts)]
        r, l_x, _, l_r, error, m = _all(model, guide, x, scope, noise, rules, grown)
        scores = rules.lam * l_x + l_r
        k = scores.argmin(1)
        best.append((scores[rows, k], r[rows, k]))
        ways.append((r, error, m))
        seeds.append(seed)
        remaining = (remaining - r.mean(1)).clamp_min(0.0)
    scores, r = (torch.stack(part, 1) for part in zip(*best, strict=True))
    later = tuple(torch.stack(part, 1) for part in zip(*ways, strict=True))
    rest = _rest(model, guide, x, scope, noise, rules)
    first = _looked_ahead(scores, r, rest, later, scope, rules, left).argmin(1)
    return torch.stack(seeds, 1)[rows, first]


def _salient_seed(x: Tensor, scope: Tensor) -> Tensor:
    """Image by image, the pixel that differs most from the mean, as its surroundings do."""
    seeds = []
    width = x.shape[3] // 4 // 2 * 2 + 1
    for image, s in zip(x, scope.clamp_min(SCOPE_EPS), strict=True):
        mean = (s * image).sum((1, 2)) / s.sum()
        distance = ((image - mean[:, None, None]) ** 2).sum(0)
        usual = (s[0] * distance).sum() / s.sum() + 0.01
        value = nn.functional.pad(s[0] * (distance / usual).clamp(max=4.0), [width // 2] * 4)
        around = value.unfold(0, width, 1).unfold(1, width, 1).mean((2, 3))
        here = value[width // 2 :, width // 2 :][: x.shape[2], : x.shape[3]]
        seeds.append((1000 * here * around).round().argmax())
    return torch.stack(seeds)


def _grown(guide: Any, k: int, x: Tensor, scope: Tensor, seed: Tensor) -> Tensor:
    """Image by image, the region that expert k's features grow from a pixel."""
    features = guide.attentions[k](_seen(x, scope))
    regions = []
    for f, s, pixel in zip(features, scope, seed, strict=True):
        row, column = divmod(int(pixel), x.shape[3])
        unlike = ((f[1:] - f[1:, row, column][:, None, None]) ** 2).sum(0)
        regions.append(s * (f[:1] + 4 - 14 * (1 - (-22 * unlike).exp())).sigmoid())
    return torch.stack(regions)


def _seen(x: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([x, mask.clamp_min(SCOPE_EPS).log()], 1)


def _bernoulli_kl(q: Tensor, p: Tensor) -> Tensor:
    yes = q * ((q + PROB_EPS).log() - (p + PROB_EPS).log())
    return yes + (1 - q) * ((1 - q + PROB_EPS).log() - (1 - p + PROB_EPS).log())


def _all(
    model: Any,
    guide: Any,
    x: Tensor,
    scope: Tensor,
    noise: Tensor,
    rules: Rules,
    r: list[Tensor],
) -> list[Tensor]:
    """What each expert makes of its region: fields of :func:`_one`, stacked along axis 1."""
    proposals = [
        _one(model, guide, k, x, scope, noise, rules.sigma_x, r[k]) for k in range(rules.experts)
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
    r: Tensor,
) -> tuple[Tensor, ...]:
    """Region, terms, error of each pixel and shape of one expert."""
    out = guide.encoders[k](_seen(x, r))
    loc, log_scale = out.chunk(2, 1)[0], (out.chunk(2, 1)[1] / 2).clamp(-7.0, 3.0)
    decoded = model.decoders[k](loc + log_scale.exp() * noise).sigmoid()
    mean, p = decoded[:, :3], scope * decoded[:, 3:]
    error = ((x - mean) ** 2).sum(1, keepdim=True) / (2 * sigma**2)
    l_x = (r * error).sum((1, 2, 3))
    l_z = (0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale).sum(1)
    return r, l_x, l_z, _bernoulli_kl(r, p).sum((1, 2, 3)), error, decoded[:, 3:]
