r"""Competition of experts (section 5.2): greedy, O(K T), and its exhaustive yardstick.

At each step all K experts propose an explanation of the remaining scope; one wins with

.. math:: P(k) \propto \exp(-(\lambda L_x(k) + L_r(k)) / \tau)

and the scope shrinks by its region (Eq. 14). tau = 1 is the paper, tau = 0 takes the best. No
gradient is computed here: learning sees only the winners, through the ELBO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from econ_pyro.decomposition import Decomposition
from econ_pyro.distributions import LayeredNormal, MeanBernoulli
from econ_pyro.layers import next_scope
from econ_pyro.terms import Terms, layer_terms, stack


class Generator(Protocol):
    """What the engine needs of p: :class:`econ_pyro.models.dead_leaves.DeadLeaves`."""

    def decode_all(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and shape by every expert."""

    def latent_prior(self, *batch: int) -> TorchDistribution:
        """p(z)."""

    def region_prior(self, s_t: Tensor, shape: Tensor) -> TorchDistribution:
        """Eq. 7."""


class Recogniser(Protocol):
    """What the engine needs of q: :class:`econ_pyro.guides.recognition.Recognition`."""

    def attend_all(self, x: Tensor, s_t: Tensor) -> Tensor:
        """Region that every expert proposes."""

    def encode_all(self, x: Tensor, r: Tensor, noise: Tensor) -> TorchDistribution:
        """q(z) by every expert, of its own region."""


@dataclass(frozen=True)
class Rules:
    """How winners are drawn.

    Args:
        experts: number of experts K.
        steps: number of layers T.
        sigma_x: standard deviation of the pixels.
        lam: weight lambda of L_x.
        temperature: tau in nats; 0 takes the best.
        lookahead: count in a score also what the rest of the scope would cost if the scene ended
            there. Without it, a step that explains nothing costs nothing, and wins.
    """

    experts: int
    steps: int
    sigma_x: float
    lam: float = 1.0
    temperature: float = 0.0
    lookahead: bool = False


class Proposals(NamedTuple):
    """What each of K experts makes of the scope; all fields ``(B, K, ...)``."""

    r: Tensor
    mean: Tensor
    shape: Tensor
    z: Tensor
    terms: Terms

    def of(self, k: Tensor) -> Proposals:
        """Those of expert k[b] for image b, fields ``(B, ...)``."""
        rows = torch.arange(k.shape[0], device=k.device)  # len() would fix an export's batch
        r, mean, shape, z = (a[rows, k] for a in self[:4])
        return Proposals(r, mean, shape, z, self.terms.map(lambda a: a[rows, k]))


@torch.no_grad()
def propose(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    s_t: Tensor,
    noise: Tensor,
    rules: Rules,
    r_t: Tensor | None = None,
) -> Proposals:
    """Attend, encode, decode and score one layer by all experts.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        noise: of the latent, ``(B, L)``; zeros give the posterior mean.
        rules: number of experts and sigma; the rest plays no part.
        r_t: the region, ``(B, 1, H, W)``, where it is not for the attention to choose: the last
            step, true regions.
    """
    if r_t is None:
        r = guide.attend_all(x, s_t)
    else:
        r = r_t[:, None].expand(-1, rules.experts, -1, -1, -1)
    q_z = guide.encode_all(x, r, noise)  # batch (B, K)
    z = q_z.rsample()
    mean, shape = model.decode_all(z)
    error = LayeredNormal(r, mean, rules.sigma_x).squared_error(x)
    q_r = MeanBernoulli(r).to_event(3)
    p_r, p_z = model.region_prior(s_t[:, None], shape), model.latent_prior(*r.shape[:2])
    return Proposals(r, mean, shape, z, layer_terms(error, q_z, p_z, q_r, p_r))


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


def _fixed_region(s_t: Tensor, i: int, steps: int, regions: Tensor | None) -> Tensor | None:
    if regions is not None:
        return regions[:, i]
    return s_t if i == steps - 1 else None  # the last layer takes the whole scope (footnote 7)


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
        r_t = _fixed_region(s_t, i, rules.steps, regions)
        proposals = propose(model, guide, x, s_t, noise[:, i], rules, r_t)
        scores = proposals.terms.score(rules.lam)  # (B, K)
        if rules.lookahead and r_t is None:
            rest = _errors_of_ending(model, guide, x, s_t, noise[:, i], rules)
            left = (s_t[:, None] - proposals.r) * rest[:, None]
            scores = scores + rules.lam * left.sum((2, 3, 4))
        handicapped = scores if handicap is None else scores + handicap
        luck = None if gumbel is None else gumbel[:, i]
        k_hat = draw_winners(handicapped, rules.temperature, luck)
        won = proposals.of(k_hat)
        terms.append(won.terms)
        layers.append((k_hat, s_t, *won[:4], scores))
        s_t = next_scope(s_t, won.r)
    k, scope, r, mean, shape, z, scores = (
        torch.stack(parts, 1) for parts in zip(*layers, strict=True)
    )
    return Decomposition(x, k, scope, r, mean, shape, z, stack(terms, 1), scores)


def _errors_of_ending(
    model: Generator, guide: Recogniser, x: Tensor, s_t: Tensor, noise: Tensor, rules: Rules
) -> Tensor:
    """Squared error in nats of each pixel if the best expert took all the scope, (B, 1, H, W)."""
    endings = propose(model, guide, x, s_t, noise, rules, s_t)
    best = endings.of(endings.terms.score(rules.lam).argmin(1))
    return (x - best.mean).square().sum(1, keepdim=True) / (2 * rules.sigma_x**2)


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
        r_t = _fixed_region(s_t, i, rules.steps, None)
        proposals = propose(model, guide, x, s_t, noise[:, i], rules, r_t)
        losses = proposals.terms.loss(beta, gamma)  # (B, K)
        for k in range(rules.experts):
            descend([*prefix, k], next_scope(s_t, proposals.r[:, k]), loss + losses[:, k])

    descend([], torch.ones_like(x[:, :1]), torch.zeros_like(best_loss))
    return Exhaustive(best_k, best_loss)
