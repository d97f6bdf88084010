"""Competition for true regions: the ablation of the paper's Fig. 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from econ_pyro.core.compositing import scopes
from econ_pyro.core.selection import Draws
from econ_pyro.infer.competition import Competition, Contest, propose_layers
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.protocols import Guide, Model


@dataclass
class OracleCompetition(Competition):
    """True regions in place of attention: no layer has to wait for another."""

    takes_evidence: ClassVar[bool] = True

    def _contest(
        self, model: Model, guide: Guide, x: Tensor, draws: Draws, evidence: Tensor | None
    ) -> Contest:
        assert evidence is not None
        scope = scopes(evidence)
        proposals = propose_layers(model, guide, x, scope, draws.noise, evidence)
        losses = proposals.terms.competition_loss(self.lam)  # (B, T, K)
        k = self._winners(losses, draws.gumbel)
        won = proposals.of(k)
        none = torch.full_like(k, -1)
        drawn = (won.r, won.mean, won.shape, won.z, won.terms)
        return Contest(Decomposition(x, k, scope, *drawn, losses, none), draws.noise)
