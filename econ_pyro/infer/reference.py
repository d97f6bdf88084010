r"""A training step written for clarity alone: the oracle that fast paths are tested against.

All K experts are run with gradients, one after the other, and the terms of Eqs. 10-12 are written
out; neither Pyro nor :mod:`econ_pyro.infer.elbo` is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from econ_pyro.core.distributions import PixelNoise
from econ_pyro.infer.competition import Competition
from econ_pyro.infer.joint_competition import JointCompetition

PROB_EPS, SCOPE_EPS = 1e-6, 1e-5


class PlainStep(NamedTuple):
    """What :func:`plain_loss` finds."""

    loss: Tensor
    """Eq. 13 as a loss, mean over scenes, differentiable."""
    k: Tensor
    """Winners, front to back, ``(B, T)``."""


def plain_loss(
    model: Any,
    guide: Any,
    x: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    competition: Competition,
    beta: float,
    gamma: float,
    occluders: Tensor | None = None,
) -> PlainStep:
    """Competition and class-conditional ELBO: in one pass, but for the competition for seeds.

    Args:
        model: with ``decoders``, K networks.
        guide: with ``attentions`` and ``encoders``, K networks each.
        x: images, ``(B, 3, H, W)``.
        noise: of the latents, ``(B, T, L)``.
        gumbel: Gumbel noise of each expert for each layer, ``(B, T, K)``.
        competition: greedy or joint.
        beta: weight of L_z.
        gamma: weight of L_r.
        occluders: what encoders see in front of each layer, ``(B, T, 4, H, W)``, where nobody
            competes.
    """
    joint = isinstance(competition, JointCompetition)
    scope, total = torch.ones_like(x[:, :1]), x.new_zeros(len(x))
    assigned = _assign(model, guide, x, noise, gumbel, competition) if joint else None
    winners: list[Tensor] = []
    for i in range(competition.num_slots):
        if i == competition.num_slots - 1:
            regions = [scope] * model.num_experts
        elif assigned is None:
            attentions: Any = guide.attentions
            regions = [scope * network(_seen(x, scope)).sigmoid() for network in attentions]
        else:
            regions = [
                _grown(guide, k, x, scope, assigned.seed[i]) for k in range(model.num_experts)
            ]
        luck = noise[:, i] if assigned is None else assigned.noise[i]
        seen = (model, guide, x, scope, luck, competition, regions)
        r, l_x, l_z, l_r, _, _ = _all(*seen)
        if assigned is None:
            scores = (competition.lam * l_x + l_r).detach()
            k = torch.stack(
                [_drawn(*row, competition) for row in zip(scores, gumbel[:, i], strict=True)]
            )
        else:
            k = assigned.k[i]
        if occluders is not None:
            r, l_x, l_z, l_r, _, _ = _all(*seen, occluders[:, i])
        rows = torch.arange(len(x), device=x.device)
        total = total + (l_x + beta * l_z + gamma * l_r)[rows, k]
        scope = (scope - r[rows, k]).clamp_min(0.0)
        winners.append(k)
    return PlainStep(total.mean(), torch.stack(winners, 1))


def _drawn(scores: Tensor, gumbel: Tensor, competition: Competition) -> Tensor:
    if competition.temperature > 0:
        return (gumbel - scores / competition.temperature).argmax()
    return scores.argmin()


class _Assigned(NamedTuple):
    """Front to back, each for all images."""

    k: list[Tensor]
    seed: list[Tensor]
    noise: list[Tensor]


@torch.no_grad()
def _assign(
    model: Any, guide: Any, x: Tensor, noise: Tensor, gumbel: Tensor, competition: Competition
) -> _Assigned:
    """Image by image what :mod:`econ_pyro.infer.joint_competition` does at once."""
    full, experts, slots = (
        torch.ones_like(x[:, :1]),
        range(model.num_experts),
        range(competition.num_slots),
    )
    remaining, seeds, things = full, [], []
    for t in slots[:-1]:
        seed = _salient_seed(x, remaining)
        grown = [_grown(guide, k, x, full, seed) for k in experts]
        things.append(_all(model, guide, x, full, noise[:, t], competition, grown))
        seeds.append(seed)
        middle = things[-1][0].sort(1).values[:, (model.num_experts - 1) // 2]
        remaining = (remaining - middle).clamp_min(0.0)
    rest = [remaining] * model.num_experts
    things.append(_all(model, guide, x, full, noise[:, -1], competition, rest))
    things[-1][0] = torch.ones_like(things[-1][0])
    seeds.append(torch.full_like(seeds[0], -1) if seeds else torch.full((len(x),), -1))
    k: list[Tensor] = []
    grown_from: list[Tensor] = []
    luck: list[Tensor] = []
    for b in range(len(x)):
        r, l_x, l_z, l_r, error, m = (
            torch.stack(part)[:, b] for part in zip(*things, strict=True)
        )
        costs, order = competition.lam * l_x + l_r, list(slots)  # (T, K)
        for _ in range(2):
            best = costs.argmin(1).tolist()
            if getattr(competition, "ordered", False):
                of_best = (torch.stack([a[t, best[t]] for t in slots]) for a in (error, m, l_z))
                order = _likeliest(order, *of_best)
            scope, costs = full[b], costs.clone()
            for t in order:
                for j in experts:
                    r_j = scope * r[t, j]
                    kl = _bernoulli_kl(r_j, scope * m[t, j]).sum()
                    costs[t, j] = competition.lam * (r_j * error[t, j]).sum() + kl
                scope = (scope - scope * r[t, best[t]]).clamp_min(0.0)
        drawn = [_drawn(costs[t], gumbel[b, i], competition) for i, t in enumerate(order)]
        k.append(torch.stack(drawn))
        grown_from.append(torch.stack([seeds[t][b] for t in order]))
        luck.append(noise[b, order])
    return _Assigned(*(list(torch.stack(part, 1)) for part in (k, grown_from, luck)))


def _likeliest(order: list[int], error: Tensor, m: Tensor, l_z: Tensor) -> list[int]:
    """One image's order of things as :func:`econ_pyro.infer.depth_order.arrange` finds it.

    Args:
        order: to begin with; the last stays.
        error: of each pixel, ``(T, 1, H, W)`` nats.
        m: shapes, ``(T, 1, H, W)``.
        l_z: ``(T,)``.
    """

    def likelihood(order: list[int], kept: set[int]) -> Tensor:
        scope, parts = torch.ones_like(m[0]), []
        for t in order:
            shape = torch.ones_like(m[t]) if t == order[-1] else m[t] * (t in kept)
            parts.append((scope * shape + PROB_EPS).log() - error[t])
            scope = scope - scope * shape
        return torch.stack(parts).logsumexp(0).sum()

    kept = set(order)
    for t in reversed(order[:-1]):
        if likelihood(order, kept) - likelihood(order, kept - {t}) < l_z[t]:
            kept -= {t}
    for place in 2 * [*range(len(order) - 2)]:
        tried = [
            [*order[:place], t, *(u for u in order[place:] if u != t)] for t in order[place:-1]
        ]
        values = [likelihood(o, kept) for o in tried]
        values[0] = values[0] + 0.01
        order = tried[int(torch.stack(values).argmax())]
    spare = [t for t in order[:-1] if t not in kept]
    return [*(t for t in order[:-1] if t in kept), *spare, order[-1]]


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
    features = guide.attentions[k](_seen(x, torch.ones_like(scope)))
    regions = []
    for f, s, pixel in zip(features, scope, seed, strict=True):
        row, column = divmod(int(pixel), x.shape[3])
        unlike = ((f[1:] - f[1:, row, column][:, None, None]) ** 2).sum(0)
        logit = f[:1] * (4 - 20 * 22 * unlike / (1 + 22 * unlike))
        regions.append(s * logit.sigmoid())
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
    competition: Competition,
    r: list[Tensor],
    front: Tensor | None = None,
) -> list[Tensor]:
    """What each expert makes of its region: fields of :func:`_one`, stacked along axis 1."""
    proposals = [
        _one(model, guide, k, x, scope, noise, model.pixel_noise, r[k], front)
        for k in range(model.num_experts)
    ]
    return [torch.stack(part, 1) for part in zip(*proposals, strict=True)]


def _one(
    model: Any,
    guide: Any,
    k: int,
    x: Tensor,
    scope: Tensor,
    noise: Tensor,
    pixel_noise: PixelNoise,
    r: Tensor,
    front: Tensor | None,
) -> tuple[Tensor, ...]:
    """Region, terms, error of each pixel and shape of one expert."""
    if front is None:
        seen = guide.view(x, r)
    else:
        hides = front[:, 3:]
        seen = guide.view(x + hides * (front[:, :3] - x), (1 - hides) * r)
    out = guide.encoders[k](*seen)
    loc, log_scale = out.chunk(2, 1)[0], (out.chunk(2, 1)[1] / 2).clamp(-7.0, 3.0)
    decoded = model.decoders[k](loc + log_scale.exp() * noise)
    mean, p = decoded[:, :3], scope * decoded[:, 3:]
    error = _error(x, mean, pixel_noise)
    l_x = (r * error).sum((1, 2, 3))
    l_z = (0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale).sum(1)
    return r, l_x, l_z, _bernoulli_kl(r, p).sum((1, 2, 3)), error, decoded[:, 3:]


def _error(x: Tensor, mean: Tensor, noise: PixelNoise) -> Tensor:
    """Minus the log density of each pixel's colour, less its constant, by its covariance."""
    mean = mean.movedim(1, -1)
    off = x.movedim(1, -1) - mean
    variance = noise.sigma**2
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    cov = variance * eye + noise.light**2 * mean[..., :, None] * mean[..., None, :]
    square = (off * torch.linalg.solve(cov, off[..., None])[..., 0]).sum(-1)
    return ((square + (cov / variance).logdet()) / 2)[:, None]
