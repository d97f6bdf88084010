r"""What the likelihood says of layers that have been found: their order, and whose each pixel is.

Greedy inference takes one layer after another and cannot go back. Once all are found, the
likelihood of all layers together (:mod:`econ_pyro.infer.depth_order`) puts them in order; the
posterior of a region given the layers is its share in the mixture, an E-step, which knows the
colour of every pixel and the shape of every layer; and the experts compete once more for the
regions so found.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from econ_pyro.core.compositing import scopes
from econ_pyro.core.distributions import pixel_errors
from econ_pyro.infer.competition import compete, contest
from econ_pyro.infer.decomposition import Decomposition, in_order
from econ_pyro.infer.depth_order import arrange, log_joint, log_likelihood, only
from econ_pyro.infer.proposals import Generator, Recogniser, Rules, drawn_terms


@torch.no_grad()
def explain(
    model: Generator, guide: Recogniser, x: Tensor, noise: Tensor, rules: Rules
) -> Decomposition:
    """Explain images by the winners of a competition, refined.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)`` in [0, 1].
        noise: of the latents, ``(B, T, L)``; zeros give the means.
        rules: of the competition.
    """
    # from seeds, layers as each was looked at for itself: regions are found anew anyway
    d, noise = contest(model, guide, x, noise, rules)
    return refine(model, guide, d, noise, rules)


@torch.no_grad()
def refine(
    model: Generator, guide: Recogniser, d: Decomposition, noise: Tensor, rules: Rules
) -> Decomposition:
    """Order, regions, and the experts' account of those regions where that is likelier.

    Args:
        model: p.
        guide: q; its attention plays no part.
        d: what a competition found.
        noise: of the latents, ``(B, T, L)``; zeros give the means.
        rules: of the competition.

    Returns:
        The same objects. Layers that were not worth their latents come last but for the last one
        and have no region.
    """
    d, kept = _ordered(d, rules.sigma_x)
    anew = replace(compete(model, guide, d.image, noise, rules, d.region), seed=d.seed)
    d, _ = _ordered(anew.where(_likelier(anew, d, kept, rules.sigma_x), d), rules.sigma_x)
    scope = scopes(d.region)
    l_x, l_r = drawn_terms(model, d.image, scope, d.region, d.mean, d.shape, rules.sigma_x)
    return replace(d, scope=scope, terms=d.terms._replace(x=l_x, r=l_r))


def _ordered(d: Decomposition, sigma_x: float) -> tuple[Decomposition, Tensor]:
    """Layers in the likeliest order, with regions given them; which are worth it, ``(B, T)``."""
    errors = pixel_errors(d.image, as_seen(d), sigma_x)
    order, kept = arrange(errors, d.shape, d.terms.z)
    joint = log_joint(in_order(errors, order), only(kept, in_order(d.shape, order)))
    r = joint.masked_fill(~kept[:, :, None, None, None], -torch.inf).softmax(1)
    return replace(d.in_order(order), region=r), kept


def _likelier(anew: Decomposition, d: Decomposition, kept: Tensor, sigma_x: float) -> Tensor:
    """Which layers make the image likelier anew, one after the other, ``(B, T)`` bool.

    By colours as they are drawn: where an expert knows better, it is to be heard.
    """

    def evidence(chosen: Tensor) -> Tensor:
        e = anew.where(chosen, d)
        likely = log_likelihood(pixel_errors(e.image, e.mean, sigma_x), only(kept, e.shape))
        return likely - (e.terms.z * kept).sum(1)

    steps, taken = kept.shape[1], torch.zeros_like(kept)
    likely, index = evidence(taken), torch.arange(steps, device=kept.device)
    for t in [steps - 1, *range(steps - 1)]:  # first the background, which most pixels are of
        evidence_anew = evidence(taken | (index == t))
        better = evidence_anew > likely
        taken = taken | (better[:, None] & (index == t))
        likely = torch.where(better, evidence_anew, likely)
    return taken


def as_seen(d: Decomposition) -> Tensor:
    """Appearances with each layer's mean colour as it is in the image, ``(B, T, 3, H, W)``.

    Objects of colours that no expert has learnt are drawn in others; that must not give their
    pixels away.
    """
    r = d.region
    off = (r * (d.image[:, None] - d.mean)).sum((3, 4), keepdim=True)
    return d.mean + off / (r.sum((3, 4), keepdim=True) + 1)
