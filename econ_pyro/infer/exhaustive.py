"""Exhaustive search over all K^T assignments: what greediness costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from econ_pyro.core.compositing import next_scope
from econ_pyro.core.selection import Draws
from econ_pyro.infer.competition import Competition, Contest, Proposals, propose
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import stack
from econ_pyro.infer.protocols import Guide, Model


class Assignment(NamedTuple):
    """The best assignment of experts to layers."""

    k: Tensor
    """``(B, T)``."""
    loss: Tensor
    """Its Eq. 13, negated, ``(B,)`` nats."""


@dataclass
class ExhaustiveCompetition(Competition):
    """Minimises Eq. 13 over all assignments; lambda and temperature play no part.

    Assignments that begin alike share their first layers, so the cost is K + K^2 + ... + K^T
    evaluations of one expert.

    Args:
        beta: weight of L_z.
        gamma: weight of L_r.
    """

    beta: float = 1.0
    gamma: float = 1.0

    @torch.no_grad()
    def search(self, model: Model, guide: Guide, x: Tensor, noise: Tensor) -> Assignment:
        """The best assignment of experts.

        Args:
            model: p.
            guide: q.
            x: images, ``(B, 3, H, W)``.
            noise: of the latents, ``(B, T, L)``.
        """
        self._check(model, x, self._means(model, x)._replace(noise=noise), None)
        best_loss = torch.full((len(x),), float("inf"), dtype=x.dtype, device=x.device)
        best_k = torch.zeros(len(x), self.num_slots, dtype=torch.long, device=x.device)

        def descend(prefix: list[int], s_t: Tensor, loss: Tensor) -> None:
            nonlocal best_loss, best_k
            if len(prefix) == self.num_slots:
                better = loss < best_loss
                best_loss = torch.where(better, loss, best_loss)
                k = torch.tensor(prefix, device=x.device)
                best_k = torch.where(better[:, None], k, best_k)
                return
            proposals = self._propose(model, guide, x, s_t, noise, len(prefix))
            losses = proposals.terms.loss(self.beta, self.gamma)  # (B, K)
            for e in range(model.num_experts):
                scope = next_scope(s_t, proposals.r[:, e])
                descend([*prefix, e], scope, loss + losses[:, e])

        descend([], torch.ones_like(x[:, :1]), torch.zeros_like(best_loss))
        return Assignment(best_k, best_loss)

    def _contest(
        self, model: Model, guide: Guide, x: Tensor, draws: Draws, evidence: Tensor | None
    ) -> Contest:
        k = self.search(model, guide, x, draws.noise).k
        s_t, layers, terms = torch.ones_like(x[:, :1]), [], []
        for i in range(self.num_slots):
            proposals = self._propose(model, guide, x, s_t, draws.noise, i)
            won = proposals.of(k[:, i])
            losses = proposals.terms.loss(self.beta, self.gamma)
            layers.append((s_t, won.r, won.mean, won.shape, won.z, losses))
            terms.append(won.terms)
            s_t = next_scope(s_t, won.r)
        s, r, mean, shape, z, losses = (torch.stack(a, 1) for a in zip(*layers, strict=True))
        none = torch.full_like(k, -1)
        d = Decomposition(x, k, s, r, mean, shape, z, stack(terms, 1), losses, none)
        return Contest(d, draws.noise)

    def _propose(
        self, model: Model, guide: Guide, x: Tensor, s_t: Tensor, noise: Tensor, i: int
    ) -> Proposals:
        last = i == self.num_slots - 1
        return propose(model, guide, x, s_t, noise[:, i], s_t if last else None)
