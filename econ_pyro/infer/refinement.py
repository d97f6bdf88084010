r"""Refinement of layers by the likelihood of all of them together.

A competition does not revise a layer that it has found. Once all are found, their joint
likelihood (:mod:`econ_pyro.infer.depth_order`) determines their order; the posterior of a region
given the layers is its share in the mixture (an E-step), which accounts for the colour of every
pixel and the shape of every layer; and the experts compete once more for the regions so found.

In further rounds, a layer that turned out to be spare goes to what the others explain worst
(:func:`fill_spare`).

Some pixels are like nothing that a layer draws, and some grounds have less noise than objects
(:mod:`econ_pyro.infer.mixture`). Encoders see one layer at a time: in each round, the latents of
all layers can take some steps together (:mod:`econ_pyro.infer.latent_ascent`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from econ_pyro.core.compositing import scopes
from econ_pyro.core.distributions import PixelNoise
from econ_pyro.core.selection import Draws
from econ_pyro.infer.competition import Proposals, propose
from econ_pyro.infer.decomposition import Decomposition, in_order
from econ_pyro.infer.depth_order import arrange, log_joint, only
from econ_pyro.infer.elbo import decoded_terms
from econ_pyro.infer.latent_ascent import ascend
from econ_pyro.infer.mixture import (
    PLAIN,
    Mixture,
    corrected_errors,
    log_evidence,
    uniform_cost,
    with_outliers,
)
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.protocols import Guide, Model


@torch.no_grad()
def refine(
    model: Model,
    guide: Guide,
    d: Decomposition,
    draws: Draws,
    oracle: OracleCompetition,
    mixture: Mixture = PLAIN,
    steps: int = 0,
) -> Decomposition:
    """Order and regions by the likelihood, and new explanations where they are likelier.

    Args:
        model: p.
        guide: q; its attention plays no part.
        d: what a competition found.
        draws: of the competition for the new regions.
        oracle: the competition for the new regions.
        mixture: what the pixels are.
        steps: of gradient ascent on the latents.

    Returns:
        The same objects. Layers that explain less than their latents cost come last but for the
        last one and have no region.
    """
    d, kept = e_step(d, model.pixel_noise, mixture)
    anew = oracle.explain(model, guide, d.image, draws, d.region)
    anew = replace(anew, seed_pixel=d.seed_pixel)
    d = anew.where(_likelier(anew, d, kept, model.pixel_noise, mixture), d)
    d, kept = e_step(d, model.pixel_noise, mixture)
    if steps:
        d, _ = e_step(ascend(model, d, kept, mixture, steps), model.pixel_noise, mixture)
    return in_their_scopes(model, d)


def in_their_scopes(model: Model, d: Decomposition) -> Decomposition:
    """Layers with the scopes that their regions leave, and L_x and L_r in these."""
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
    mixture: Mixture = PLAIN,
    steps: int = 0,
) -> Decomposition:
    """:func:`refine`, and so many rounds less one of :func:`fill_spare` and :func:`refine`."""
    d = refine(model, guide, d, draws, oracle, mixture, steps)
    for _ in range(1, rounds):
        filled = fill_spare(model, guide, d, oracle.lam, mixture)
        d = refine(model, guide, filled, draws, oracle, mixture, steps)
    return d


@torch.no_grad()
def fill_spare(
    model: Model, guide: Guide, d: Decomposition, lam: float, mixture: Mixture = PLAIN
) -> Decomposition:
    """Give a spare layer of each image to the expert that explains best what is explained worst.

    To the mixture of the layers at each pixel, one more component is added: a uniform density of
    colours, which alone count here. Its share of the pixels is the scope in which the experts'
    attention proposes regions. The region that saves most nats is taken.

    Args:
        model: p.
        guide: q.
        d: refined layers.
        lam: weight of L_x in the competition.
        mixture: what the pixels are.

    Returns:
        The layers, where the last one without a region, but for the background's, is that
        expert's. It need not be better: refining drops it again if it is not.
    """
    slots = d.k.shape[1]
    if slots == 1:
        return d
    spare = d.area[:, -2] == 0  # as refined layers have it, (B,)
    kept = d.area > 0
    mixture = replace(mixture, features=None)
    joint = log_joint(corrected_errors(d, model.pixel_noise, mixture), only(kept, d.shape))
    joint = joint.masked_fill(~kept[:, :, None, None, None], -torch.inf)
    cost = -joint.logsumexp(1)  # nats per pixel, (B, 1, H, W)
    scope = (cost - uniform_cost(model.pixel_noise.sigma)).sigmoid()
    proposals = propose(model, guide, d.image, scope, torch.zeros_like(d.z[:, 0]))
    errors = with_outliers(proposals.errors, model.pixel_noise, mixture.outliers)
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
    d: Decomposition, noise: PixelNoise, mixture: Mixture = PLAIN
) -> tuple[Decomposition, Tensor]:
    """Regions that are optimal for what is drawn, in the order that makes the image likeliest.

    Args:
        d: layers as decoded, in any order.
        noise: of the pixels.
        mixture: what the pixels are.

    Returns:
        The layers in that order, each region its share in the mixture of the layers, and which of
        them explain more than their latents cost, ``(B, T)`` bool. The others have no region.
    """
    errors = corrected_errors(d, noise, mixture)
    order, kept = arrange(errors, d.shape, d.terms.z)
    joint = log_joint(in_order(errors, order), only(kept, in_order(d.shape, order)))
    r = joint.masked_fill(~kept[:, :, None, None, None], -torch.inf).softmax(1)
    return replace(d.in_order(order), region=r), kept


def _likelier(
    anew: Decomposition, d: Decomposition, kept: Tensor, noise: PixelNoise, mixture: Mixture
) -> Tensor:
    """Which layers make the image likelier anew, one after the other, ``(B, T)`` bool."""

    def evidence(chosen: Tensor) -> Tensor:
        return log_evidence(anew.where(chosen, d), kept, noise, mixture, as_drawn=True)

    slots, taken = kept.shape[1], torch.zeros_like(kept)
    likely, index = evidence(taken), torch.arange(slots, device=kept.device)
    for t in [slots - 1, *range(slots - 1)]:  # first the background, which has most pixels
        evidence_anew = evidence(taken | (index == t))
        better = evidence_anew > likely
        taken = taken | (better[:, None] & (index == t))
        likely = torch.where(better, evidence_anew, likely)
    return taken


def replaced(d: Decomposition, chosen: Tensor, losses: Tensor, won: Proposals) -> Decomposition:
    """The layers, of which those ``chosen``, ``(B, T)`` or ``(T,)``, are as an expert proposes."""
    new = replace(
        d,
        k=losses.argmin(1)[:, None],
        mean=won.mean[:, None],
        shape=won.shape[:, None],
        z=won.z[:, None],
        terms=won.terms.map(lambda a: a[:, None]),
        competition_losses=losses[:, None],
    )
    return new.where(chosen.expand_as(d.k), d)
