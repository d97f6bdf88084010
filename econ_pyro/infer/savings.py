r"""Greedy competition for what a region saves, in place of what it costs.

With the score of section 5.2, :math:`\lambda L_x + L_r`, a region of nothing costs nothing and
wins. The expert that explains a scope best loses to one that does not look at it. Here experts
compete for the nats that a region saves: the scope could also be left as it is, and be explained
as the last layer by whichever expert does that best, at :math:`\lambda e_i` nats per pixel (the
L_r of that layer is left out),

.. math:: S(k) = \lambda \Bigl( \sum_i r_i e_i - L_x(k) \Bigr) - L_r(k).

What is in front should go first. An occluded object that is taken before its occluder pays, in
L_r, for all of its shape that the occluder hides; taken after, it pays nothing for that. So the
score also counts what the later layers could then save, each expert by the share of the scope that
it proposes now, in what the region of k leaves:

.. math:: S(k) + \sum_{j \in J(k)} S(j \mid s - r_k)_+,

where J(k) holds the best of the other experts, at most as many as there are layers left before
the last. No network runs again for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from econ_pyro.core.compositing import SCOPE_EPS, next_scope, region
from econ_pyro.infer.competition import GreedyCompetition, Proposals, propose
from econ_pyro.infer.elbo import Terms, pixel_terms
from econ_pyro.infer.protocols import Guide, Model


@dataclass
class SavingsCompetition(GreedyCompetition):
    """Layer by layer, for the nats that a region saves.

    Args:
        lookahead: whether to count what later layers could save.
    """

    lookahead: bool = True

    def _losses(
        self, model: Model, guide: Guide, x: Tensor, s_t: Tensor, proposals: Proposals, left: int
    ) -> Tensor:
        """Nats that every expert's region fails to save, ``(B, K)``; lower is better."""
        losses = proposals.terms.competition_loss(self.lam)
        if left == 0:
            return losses
        ending = self._ending(model, guide, x, s_t, proposals)  # (B, 1, 1, H, W)
        losses = losses - (proposals.r * ending).sum((2, 3, 4))
        if not self.lookahead or left == 1:
            return losses
        return losses - self._later(model, s_t, proposals, ending, left - 1)

    def _ending(
        self, model: Model, guide: Guide, x: Tensor, s_t: Tensor, proposals: Proposals
    ) -> Tensor:
        """Nats per pixel if the best expert for it explained all of the scope."""
        last = propose(model, guide, x, s_t, torch.zeros_like(proposals.z[:, 0]), s_t)
        best = last.terms.competition_loss(self.lam).argmin(1)
        return self.lam * last.of(best).errors[:, None]

    def _later(
        self, model: Model, s_t: Tensor, proposals: Proposals, ending: Tensor, layers: int
    ) -> Tensor:
        """Nats that other experts could save in what each expert leaves, ``(B, K)``."""
        experts = proposals.r.shape[1]
        share = proposals.r / s_t[:, None].clamp_min(SCOPE_EPS)
        scope = next_scope(s_t[:, None], proposals.r)[:, :, None]  # (B, K, 1, 1, H, W)
        r = region(scope, share[:, None])  # of j after k, (B, K, K, 1, H, W)
        l_x, l_r = pixel_terms(
            model, scope, r, proposals.errors[:, None], proposals.shape[:, None]
        )
        cost = Terms(l_x, l_x, l_r).competition_loss(self.lam)
        saved = ((r * ending[:, None]).sum((3, 4, 5)) - cost).clamp_min(0)
        own = torch.eye(experts, dtype=torch.bool, device=saved.device)
        others = saved.masked_fill(own, 0.0)
        return others.topk(min(layers, experts - 1), dim=2).values.sum(2)
