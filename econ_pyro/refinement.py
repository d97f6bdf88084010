r"""What the likelihood says of layers that have been found: their order, and whose each pixel is.

Greedy inference takes one layer after another and cannot go back. Once all are found, the
likelihood of all layers together (:mod:`econ_pyro.mixture`) puts them in order; the posterior of a
region given the layers is its share in the mixture, an E-step, which knows the colour of every
pixel and the shape of every layer; and the experts compete once more for the regions so found.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from econ_pyro.competition import compete
from econ_pyro.decomposition import Decomposition, in_order
from econ_pyro.layers import scopes
from econ_pyro.mixture import arrange, log_joint, only
from econ_pyro.proposals import Generator, Recogniser, Rules, visible_terms


@torch.no_grad()
def refine(
    model: Generator, guide: Recogniser, d: Decomposition, noise: Tensor, rules: Rules
) -> Decomposition:
    """Order, regions, and the experts' account of those regions, where that is likelier.

    Args:
        model: p.
        guide: q; its attention plays no part.
        d: what greedy inference found.
        noise: of the latents, ``(B, T, L)``; zeros give the means.
        rules: of the competition.

    Returns:
        The same objects. Layers that were not worth their latents come last but for the last one
        and have no region.
    """
    d, r, evidence = _ordered(d, rules.sigma_x)
    anew = replace(compete(model, guide, d.image, noise, rules, r), seed=d.seed)
    anew, r_anew, evidence_anew = _ordered(anew, rules.sigma_x)
    better = evidence_anew > evidence
    r = torch.where(better[:, None, None, None, None], r_anew, r)
    return _with_regions(model, anew.where(better, d), r, rules)


def _ordered(d: Decomposition, sigma_x: float) -> tuple[Decomposition, Tensor, Tensor]:
    """Layers in the likeliest order, regions given them, and log p(x | z, k) - L_z, ``(B,)``."""
    x, mean = d.image, as_seen(d)
    order, kept = arrange(x, mean, d.shape, d.terms.z, sigma_x)
    d, mean = d.in_order(order), in_order(mean, order)
    joint = log_joint(x, mean, only(kept, d.shape), sigma_x)
    r = joint.masked_fill(~kept[:, :, None, None, None], -torch.inf).softmax(1)
    return d, r, joint.logsumexp(1).sum((1, 2, 3)) - (d.terms.z * kept).sum(1)


def as_seen(d: Decomposition) -> Tensor:
    """Appearances with each layer's mean colour as it is in the image, ``(B, T, 3, H, W)``.

    Objects of colours that no expert has learnt are drawn in others; that must not give their
    pixels away.
    """
    r = d.region
    off = (r * (d.image[:, None] - d.mean)).sum((3, 4), keepdim=True)
    return d.mean + off / (r.sum((3, 4), keepdim=True) + 1)


def _with_regions(model: Generator, d: Decomposition, r: Tensor, rules: Rules) -> Decomposition:
    """The same layers with other regions, and what they cost."""
    scope = scopes(r)
    l_x, l_r = visible_terms(model, d.image, scope, r, d.mean, d.shape, rules.sigma_x)
    return replace(d, scope=scope, region=r, terms=d.terms._replace(x=l_x, r=l_r))
