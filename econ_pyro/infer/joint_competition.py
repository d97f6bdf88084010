r"""The recipe's competition: for all layers of an image at once, whose regions grow from seeds.

The guide proposes T - 1 objects, and what they leave is the last layer. All experts explain each
object as if it came first, in one pass. What remains is the depth order, on which each object's
best expert and its cost depend, and that needs no network:

* the best experts' drawings determine the order that makes the image likeliest
  (:func:`econ_pyro.infer.depth_order.arrange`);
* in that order the scopes are known, and with them the cost of each expert's explanation,
  :math:`\lambda L_x + KL(s_t a_t \| s_t m_t)`: an expert that draws more of an object than is
  visible pays nothing for what nearer objects hide. A half-hidden square may have looked like a
  circle before.

Two rounds, as a better expert may suggest another order; then winners are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from econ_pyro.accel.compile import compilable
from econ_pyro.core.compositing import (
    median_region,
    next_scope,
    region,
    regions_of_shapes,
    scopes,
)
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.infer.competition import Competition, Contest, Proposals, propose_layers
from econ_pyro.infer.decomposition import Decomposition, in_order
from econ_pyro.infer.depth_order import arrange
from econ_pyro.infer.elbo import pixel_terms, reconstruct
from econ_pyro.infer.protocols import Model, SeededGuide

ROUNDS = 2  # of order and cost


@dataclass
class JointCompetition(Competition):
    """The experts compete for all objects of an image at once.

    Args:
        ordered: whether layers stand in the order that makes the image likeliest, given what the
            experts draw; else the most salient comes first.
    """

    ordered: bool = True

    fixes_seed_pixels: ClassVar[bool] = True

    def _contest(
        self, model: Model, guide: SeededGuide, x: Tensor, draws: Draws, evidence: Tensor | None
    ) -> Contest:
        """The layers as they competed, each decoded in a full scope."""
        objects, seed_pixel = self._objects(model, guide, x, draws.noise)  # (B, T, K, ...)
        losses = objects.terms.competition_loss(self.lam)  # (B, T, K), each as if it came first
        order = torch.arange(self.num_slots, device=x.device).repeat(x.shape[0], 1)
        drawn = (objects.r, objects.errors, objects.shape, objects.terms.z)
        for _ in range(ROUNDS):
            order, s, l_x, l_r = _settled(model, *drawn, losses, order, self.ordered)
            terms = objects.terms._replace(x=l_x, r=l_r)
            losses = terms.competition_loss(self.lam)
        losses = in_order(losses, order)
        k = self._winners(losses, draws.gumbel)
        won = objects._replace(terms=terms).map(lambda a: _picked(a, order, k))
        r = region(s, won.r)
        layers = (k, s, r, won.mean, won.shape, won.z, won.terms, losses)
        d = Decomposition(x, *layers, in_order(seed_pixel, order))
        return Contest(d, in_order(draws.noise, order))

    def explain(
        self,
        model: Model,
        guide: SeededGuide,
        x: Tensor,
        draws: Draws,
        evidence: Tensor | None = None,
    ) -> Decomposition:
        """The winners' explanation, each in its scope."""
        d, noise = self.contest(model, guide, x, draws, evidence)
        selection = Selection(d.k, noise, d.seed_pixel, d.competition_losses, d.region)
        layers = reconstruct(model, guide.given(selection), x, d.k)
        return Decomposition(x, d.k, *layers, d.competition_losses, d.seed_pixel)

    def _objects(
        self, model: Model, guide: SeededGuide, x: Tensor, noise: Tensor
    ) -> tuple[Proposals, Tensor]:
        """All experts' proposals for each object in a full scope, and its seed pixel.

        The region of the last is what the others leave, by the median of the experts; within the
        scope that is left in the end, it is everywhere.
        """
        slots = self.num_slots
        left = full = torch.ones_like(x[:, :1])
        seed_pixel = torch.full_like(x[:, :1, 0, 0], -1, dtype=torch.long)
        r = full[:, None, None].expand(-1, 0, model.num_experts, -1, -1, -1)
        if slots > 1:
            found, r = guide.candidates(x, full, slots - 1)
            seed_pixel = torch.cat([found, seed_pixel], 1)
            for r_t in r.unbind(1):
                left = next_scope(left, median_region(r_t))
        last = left[:, None, None].expand(-1, 1, model.num_experts, -1, -1, -1)
        r = torch.cat([r, last], 1)
        fulls = full[:, None].expand(-1, slots, -1, -1, -1)
        objects = propose_layers(model, guide, x, fulls, noise, r)
        r = torch.cat([r[:, :-1], torch.ones_like(last)], 1)
        return objects._replace(r=r), seed_pixel


@compilable
def _settled(
    model: Model,
    r: Tensor,
    errors: Tensor,
    shape: Tensor,
    l_z: Tensor,
    losses: Tensor,
    order: Tensor,
    ordered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A round: the order of the objects by what the best experts draw, and all costs in it.

    Args:
        model: p.
        r: regions of the objects, ``(B, T, K, 1, H, W)``.
        errors: of their pixels, alike.
        shape: alike.
        l_z: Eq. 11, ``(B, T, K)``.
        losses: of the competition so far, ``(B, T, K)``.
        order: of the objects, ``(B, T)``.
        ordered: whether the order may change.

    Returns:
        The order, the scopes in it, and Eqs. 10 and 12 of the objects, ``(B, T, K)`` each.
    """
    best = in_order(losses.argmin(2), order)
    if ordered:
        better, _ = arrange(*(_picked(a, order, best) for a in (errors, shape, l_z)))
        order, best = in_order(order, better), in_order(best, better)
    s = scopes(regions_of_shapes(_picked(r, order, best)))
    # the scope of each object; the objects' own tensors are large, and are not reordered
    left = in_order(s, order.argsort(1))[:, :, None]
    return order, s, *pixel_terms(model, left, region(left, r), errors, shape)


def _picked(a: Tensor, order: Tensor, k: Tensor) -> Tensor:
    """Values ``(B, T, K, ...)`` of experts ``k``, for objects in an order, ``(B, T)`` each."""
    rows = torch.arange(order.shape[0], device=order.device)  # len() would fix an export's batch
    return a[rows[:, None], order, k]
