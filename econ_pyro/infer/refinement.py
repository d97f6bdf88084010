r"""Refinement of layers by the likelihood of all of them together.

A competition does not revise a layer that it has found. Once all are found, their joint
likelihood (:mod:`econ_pyro.infer.depth_order`) determines their order; the posterior of a region
given the layers is its share in the mixture (an E-step), which accounts for the colour of every
pixel and the shape of every layer; and the experts compete once more for the regions so found.

In further rounds, a layer that turned out to be spare goes to what the others explain worst
(:func:`fill_spare`).

A layer that stands too far in front is a local optimum of these steps: as nothing is thought to
hide it, it is drawn as small as its region, and so drawn it is likeliest in front. So each layer is
explained once more as if all the others hid it (:func:`move_behind`).

Some pixels are like nothing that a layer draws: outlines, texture, the traces of a camera. With a
share of outliers, each layer's density has a uniform component,

.. math:: (1 - \epsilon) \, N(x_i; \mu_{ti}, \sigma^2) + \epsilon,

so that no pixel costs more than :math:`-\log \epsilon - \frac{3}{2} \log 2 \pi \sigma^2` nats on
the scale of pixel errors: 9 for a share of 0.01 and sigma 0.1. Such pixels go where the shapes
have them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from econ_pyro.core.compositing import scopes
from econ_pyro.core.distributions import pixel_errors
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.infer.competition import Competition, Contest, Proposals, propose
from econ_pyro.infer.decomposition import Decomposition, in_order
from econ_pyro.infer.depth_order import MARGIN, arrange, log_joint, log_likelihood, only
from econ_pyro.infer.elbo import decoded_terms
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.protocols import Guide, Model

WIDE = 2.5  # standard deviations of a pixel: a layer's colour may be so far from what is drawn


@dataclass
class Refined(Competition):
    """A competition whose explanations are refined; what it selects for training is unchanged.

    Args:
        inner: any competition.
        rounds: how often layers are refined.
        outliers: share of the pixels that are like nothing that a layer draws.
    """

    inner: Competition | None = None
    rounds: int = 1
    outliers: float = 0.0

    @classmethod
    def of(cls, inner: Competition, rounds: int = 1, outliers: float = 0.0) -> Refined:
        """A competition, refined."""
        options = (inner.lam, inner.temperature, inner.expert_bias, inner.occlusion)
        return cls(inner.num_slots, *options, inner=inner, rounds=rounds, outliers=outliers)

    def __call__(
        self,
        model: Model,
        guide: Any,
        x: Tensor,
        evidence: Tensor | None = None,
        draws: Draws | None = None,
    ) -> Selection:
        """What the competition within selects."""
        return self._inner()(model, guide, x, evidence, draws)

    def _contest(
        self, model: Model, guide: Any, x: Tensor, draws: Draws, evidence: Tensor | None
    ) -> Contest:
        return self._inner().contest(model, guide, x, draws, evidence)

    def explain(
        self, model: Model, guide: Any, x: Tensor, draws: Draws, evidence: Tensor | None = None
    ) -> Decomposition:
        """The winners' explanation, refined."""
        d, noise = self.contest(model, guide, x, draws, evidence)
        oracle = OracleCompetition(self.num_slots, self.lam, self.temperature)
        draws = draws._replace(noise=noise)
        return refine_rounds(model, guide, d, draws, oracle, self.rounds, self.outliers)

    def _inner(self) -> Competition:
        """The competition within, at this one's temperature and with its bias."""
        assert self.inner is not None
        return replace(self.inner, temperature=self.temperature, expert_bias=self.expert_bias)


@torch.no_grad()
def refine(
    model: Model,
    guide: Guide,
    d: Decomposition,
    draws: Draws,
    oracle: OracleCompetition,
    outliers: float = 0.0,
) -> Decomposition:
    """Order and regions by the likelihood, and new explanations where they are likelier.

    Args:
        model: p.
        guide: q; its attention plays no part.
        d: what a competition found.
        draws: of the competition for the new regions.
        oracle: the competition for the new regions.
        outliers: share of the pixels that are like nothing that a layer draws.

    Returns:
        The same objects. Layers that explain less than their latents cost come last but for the
        last one and have no region.
    """
    d, kept = e_step(d, model.sigma_x, outliers)
    anew = oracle.explain(model, guide, d.image, draws, d.region)
    anew = replace(anew, seed_pixel=d.seed_pixel)
    better = anew.where(_likelier(anew, d, kept, model.sigma_x, outliers), d)
    d, _ = e_step(better, model.sigma_x, outliers)
    return _in_scopes(model, d)


def _in_scopes(model: Model, d: Decomposition) -> Decomposition:
    """Scopes of the regions in their order, and the terms in them."""
    scope = scopes(d.region)
    l_x, l_r = decoded_terms(model, d.image, scope, d.region, d.mean, d.shape)
    return replace(d, scope=scope, terms=d.terms._replace(x=l_x, r=l_r))


def refine_rounds(
    model: Model,
    guide: Guide,
    d: Decomposition,
    draws: Draws,
    oracle: OracleCompetition,
    rounds: int,
    outliers: float = 0.0,
) -> Decomposition:
    """:func:`refine`, and so many rounds less one of :func:`fill_spare` and :func:`refine`.

    Then :func:`move_behind`.
    """
    d = refine(model, guide, d, draws, oracle, outliers)
    for _ in range(1, rounds):
        filled = fill_spare(model, guide, d, oracle.lam, outliers)
        d = refine(model, guide, filled, draws, oracle, outliers)
    return move_behind(model, guide, d, draws, oracle.lam, outliers)


@torch.no_grad()
def move_behind(
    model: Model, guide: Guide, d: Decomposition, draws: Draws, lam: float, outliers: float = 0.0
) -> Decomposition:
    """Explain each layer as if all other objects were in front of it, and keep what is likelier.

    Its scope is then its region and the last layer's: the experts may draw the object on under the
    others at no cost. The order is found anew each time.

    Args:
        model: p.
        guide: q; its attention plays no part.
        d: refined layers.
        draws: noise of the latents; the likeliest expert is taken.
        lam: weight of L_x in the competition.
        outliers: share of the pixels that are like nothing that a layer draws.

    Returns:
        Layers as of :func:`refine`.
    """
    slots = d.k.shape[1]
    likely = _evidence(d, d.area > 0, model.sigma_x, outliers)
    for t in reversed(range(slots - 1)):  # those that move back have had their turn
        r, hidden = d.region[:, t], d.area[:, t] > 0
        s = (r + d.region[:, -1]).clamp(max=1)
        proposals = propose(model, guide, d.image, s, draws.noise[:, t], r)
        losses = proposals.terms.competition_loss(lam)
        won = proposals.of(losses.argmin(1))
        last = _last_but_one(t, slots).to(d.k.device).expand(len(d.k), -1)
        anew = _replaced(d, t, losses, won).in_order(last)
        anew, kept = e_step(anew, model.sigma_x, outliers)
        found = _evidence(anew, kept, model.sigma_x, outliers)
        better = hidden & (found > likely + MARGIN)
        d = anew.where(better[:, None].expand(-1, slots), d)
        likely = torch.where(better, found, likely)
    return _in_scopes(model, d)


@torch.no_grad()
def fill_spare(
    model: Model, guide: Guide, d: Decomposition, lam: float, outliers: float = 0.0
) -> Decomposition:
    """Give a spare layer of each image to the expert that explains best what is explained worst.

    To the mixture of the layers at each pixel, one more component is added: a uniform density of
    colours. Its share of the pixels is the scope in which the experts' attention proposes regions.
    The region that saves most nats is taken.

    Args:
        model: p.
        guide: q.
        d: refined layers.
        lam: weight of L_x in the competition.
        outliers: share of the pixels that are like nothing that a layer draws.

    Returns:
        The layers, where the last one without a region, but for the background's, is that
        expert's. It need not be better: refining drops it again if it is not.
    """
    slots = d.k.shape[1]
    if slots == 1:
        return d
    spare = d.area[:, -2] == 0  # as refined layers have it, (B,)
    kept = d.area > 0
    joint = log_joint(corrected_errors(d, model.sigma_x, outliers), only(kept, d.shape))
    joint = joint.masked_fill(~kept[:, :, None, None, None], -torch.inf)
    cost = -joint.logsumexp(1)  # nats per pixel, (B, 1, H, W)
    scope = (cost - uniform_cost(model.sigma_x)).sigmoid()
    proposals = propose(model, guide, d.image, scope, torch.zeros_like(d.z[:, 0]))
    errors = with_outliers(proposals.errors, model.sigma_x, outliers)
    saved = lam * (proposals.r * (cost[:, None] - errors)).sum((2, 3, 4)) - proposals.terms.r
    k = saved.argmax(1)
    won = proposals.of(k)

    def at_all(a: Tensor) -> Tensor:
        return a[:, None].expand(-1, slots, *a.shape[1:])

    new = replace(
        d,
        k=at_all(k),
        scope=at_all(scope),
        region=at_all(won.r),
        mean=at_all(won.mean),
        shape=at_all(won.shape),
        z=at_all(won.z),
        terms=won.terms.map(at_all),
        seed_pixel=torch.full_like(d.k, -1),
    )
    put = torch.zeros_like(kept)
    put[:, -2] = spare
    taken = (won.r * spare[:, None, None, None])[:, None]
    return new.where(put, replace(d, region=d.region * (1 - taken)))


@torch.no_grad()
def e_step(
    d: Decomposition, sigma_x: float, outliers: float = 0.0
) -> tuple[Decomposition, Tensor]:
    """Regions that are optimal for what is drawn, in the order that makes the image likeliest.

    Args:
        d: layers as decoded, in any order.
        sigma_x: standard deviation of the pixel likelihood.
        outliers: share of the pixels that are like nothing that a layer draws.

    Returns:
        The layers in that order, each region its share in the mixture of the layers, and which of
        them explain more than their latents cost, ``(B, T)`` bool. The others have no region.
    """
    errors = corrected_errors(d, sigma_x, outliers)
    order, kept = arrange(errors, d.shape, d.terms.z)
    joint = log_joint(in_order(errors, order), only(kept, in_order(d.shape, order)))
    r = joint.masked_fill(~kept[:, :, None, None, None], -torch.inf).softmax(1)
    return replace(d.in_order(order), region=r), kept


def _likelier(
    anew: Decomposition, d: Decomposition, kept: Tensor, sigma_x: float, outliers: float
) -> Tensor:
    """Which layers make the image likelier anew, one after the other, ``(B, T)`` bool.

    By colours as they are decoded, so that an expert that fits better is preferred.
    """

    def evidence(chosen: Tensor) -> Tensor:
        e = anew.where(chosen, d)
        errors = with_outliers(pixel_errors(e.image, e.mean, sigma_x), sigma_x, outliers)
        return log_likelihood(errors, only(kept, e.shape)) - (e.terms.z * kept).sum(1)

    slots, taken = kept.shape[1], torch.zeros_like(kept)
    likely, index = evidence(taken), torch.arange(slots, device=kept.device)
    for t in [slots - 1, *range(slots - 1)]:  # first the background, which has most pixels
        evidence_anew = evidence(taken | (index == t))
        better = evidence_anew > likely
        taken = taken | (better[:, None] & (index == t))
        likely = torch.where(better, evidence_anew, likely)
    return taken


def _evidence(d: Decomposition, kept: Tensor, sigma_x: float, outliers: float) -> Tensor:
    """Log p(x | z, k), regions summed out, less what the latents cost, ``(B,)``."""
    errors = corrected_errors(d, sigma_x, outliers)
    return log_likelihood(errors, only(kept, d.shape)) - (d.terms.z * kept).sum(1)


def _last_but_one(t: int, slots: int) -> Tensor:
    """The order in which layer t goes behind all but the last, ``(T,)``."""
    return torch.tensor([u for u in range(slots - 1) if u != t] + [t, slots - 1])


def _replaced(d: Decomposition, t: int, losses: Tensor, won: Proposals) -> Decomposition:
    """The layers, of which the t-th is explained by an expert's proposal."""
    index = torch.arange(d.k.shape[1], device=d.k.device) == t
    new = replace(
        d,
        k=losses.argmin(1)[:, None],
        mean=won.mean[:, None],
        shape=won.shape[:, None],
        z=won.z[:, None],
        terms=won.terms.map(lambda a: a[:, None]),
        competition_losses=losses[:, None],
    )
    return new.where(index.expand_as(d.k), d)


def uniform_cost(sigma_x: float) -> float:
    """Nats of a uniform density of colours, on the scale of pixel errors.

    They leave out the constant of the normal density.
    """
    return -1.5 * math.log(2 * math.pi * sigma_x**2)


def with_outliers(errors: Tensor, sigma_x: float, outliers: float) -> Tensor:
    """Pixel errors in nats, if that share of the pixels has a uniform density."""
    if not outliers:
        return errors
    uniform = errors.new_tensor(math.log(outliers) - uniform_cost(sigma_x))
    return -torch.logaddexp(math.log1p(-outliers) - errors, uniform)


def corrected_errors(d: Decomposition, sigma_x: float, outliers: float = 0.0) -> Tensor:
    """Pixel errors in nats, by each layer's mean colour in the image, ``(B, T, 1, H, W)``.

    An object of a colour that no expert has learnt is decoded in another one; that must not give
    its pixels away.
    """
    mean = mean_colour_corrected(d, WIDE * sigma_x if outliers else None)
    return with_outliers(pixel_errors(d.image, mean, sigma_x), sigma_x, outliers)


def mean_colour_corrected(d: Decomposition, width: float | None = None) -> Tensor:
    """Appearances shifted to each layer's mean colour in the image, ``(B, T, 3, H, W)``.

    Args:
        d: layers as decoded.
        width: if given, pixels count less the further they are from what is drawn, by a normal
            density of that standard deviation: outliers are not to change a layer's colour.
    """
    off = d.image[:, None] - d.mean
    weight = d.region
    if width is not None:
        weight = weight * (-off.square().sum(2, keepdim=True) / (2 * width**2)).exp()
    shift = (weight * off).sum((3, 4), keepdim=True)
    return d.mean + shift / (weight.sum((3, 4), keepdim=True) + 1)
