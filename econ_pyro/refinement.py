r"""What the likelihood says of layers that have been found: their order, and whose each pixel is.

Greedy inference takes one layer after another and cannot go back. Once all are found, with
appearances mu and shapes m, nothing of the generative program needs to be guessed any more: with
its regions summed out, each pixel is a mixture over the layers,

.. math:: p(x_i | z, k) = \sum_t m_{ti} \prod_{u \text{ before } t} (1 - m_{ui}) \,
    N(x_i; \mu_{ti}, \sigma^2)

(the last layer is everywhere). So orders are compared exactly, without a network; the posterior of
a region given the layers is its share in the mixture, an E-step, which knows the colour of every
pixel and the shape of every layer; and the experts compete once more for the regions so found.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.competition import compete
from econ_pyro.decomposition import Decomposition, in_order
from econ_pyro.distributions import PROB_EPS, LayeredNormal, MeanBernoulli
from econ_pyro.layers import next_scope, regions_of_shapes
from econ_pyro.proposals import Generator, Recogniser, Rules

SWEEPS = 2  # through the places of an order


def log_joint(x: Tensor, mean: Tensor, shape: Tensor, sigma_x: float) -> Tensor:
    """Log of each layer's part of the mixture, ``(B, T, 1, H, W)``, up to a constant.

    Args:
        x: images, ``(B, 3, H, W)``.
        mean: appearances front to back, ``(B, T, 3, H, W)``.
        shape: shape probabilities front to back, ``(B, T, 1, H, W)``; the last play no part.
        sigma_x: standard deviation of the pixels.
    """
    everywhere = torch.ones_like(shape[:, :1])
    weight = regions_of_shapes(torch.cat([shape[:, :-1], everywhere], 1))
    error = (x[:, None] - mean).square().sum(2, keepdim=True) / (2 * sigma_x**2)
    return (weight + PROB_EPS).log() - error


def log_likelihood(x: Tensor, mean: Tensor, shape: Tensor, sigma_x: float) -> Tensor:
    """Log p(x | z, k), regions summed out, ``(B,)`` nats up to a constant: :func:`log_joint`."""
    return log_joint(x, mean, shape, sigma_x).logsumexp(1).sum((1, 2, 3))


def worth(x: Tensor, mean: Tensor, shape: Tensor, l_z: Tensor, sigma_x: float) -> Tensor:
    """Whether a layer explains more than its latent costs, ``(B, T)`` bool.

    From the back on, layers without which the image is as likely but for L_z are left out. The
    last one always stays.

    Args:
        x: images, ``(B, 3, H, W)``.
        mean: appearances front to back, ``(B, T, 3, H, W)``.
        shape: shape probabilities, ``(B, T, 1, H, W)``.
        l_z: Eq. 11 of each layer, ``(B, T)``.
        sigma_x: standard deviation of the pixels.
    """
    steps = shape.shape[1]
    kept, index = torch.ones_like(l_z, dtype=torch.bool), torch.arange(steps, device=x.device)
    likely = log_likelihood(x, mean, shape, sigma_x)
    for t in reversed(range(steps - 1)):
        without = kept & (index != t)
        rest = log_likelihood(x, mean, _only(without, shape), sigma_x)
        leave = likely - rest < l_z[:, t]
        kept = kept & ~(leave[:, None] & (index == t))
        likely = torch.where(leave, rest, likely)
    return kept


def likeliest_order(x: Tensor, mean: Tensor, shape: Tensor, sigma_x: float) -> Tensor:
    """Indices of the layers in the order that makes an image likeliest, ``(B, T)`` int64.

    Place by place from the front, the layer that is likeliest there of those behind goes there,
    twice over: O(T^2) orders in place of all (T - 1)!, and no network. The last layer stays.

    Args:
        x: images, ``(B, 3, H, W)``.
        mean: appearances front to back, ``(B, T, 3, H, W)``.
        shape: shape probabilities front to back, ``(B, T, 1, H, W)``.
        sigma_x: standard deviation of the pixels.
    """
    n, steps = shape.shape[:2]
    rows = torch.arange(n, device=x.device)
    order = torch.arange(steps, device=x.device).repeat(n, 1)
    for place in SWEEPS * [*range(steps - 2)]:
        moves = [
            [*range(place), t, *(i for i in range(place, steps) if i != t)]
            for t in range(place, steps - 1)
        ]
        tried = order[:, torch.tensor(moves, device=x.device)]  # (B, moves, T), as it is first
        all_tried = tried.flatten(0, 1)
        xs, means, shapes = (a.repeat_interleave(len(moves), 0) for a in (x, mean, shape))
        means, shapes = in_order(means, all_tried), in_order(shapes, all_tried)
        likely = log_likelihood(xs, means, shapes, sigma_x)
        order = tried[rows, likely.unflatten(0, (-1, len(moves))).argmax(1)]
    return order


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
    kept = worth(x, mean, d.shape, d.terms.z, sigma_x)
    order = likeliest_order(x, mean, _only(kept, d.shape), sigma_x)
    # what is not worth it comes after the others, but before the last layer
    steps = order.shape[1]
    spare = (~in_order(kept, order))[:, :-1] * steps + torch.arange(steps - 1, device=x.device)
    order = torch.cat([in_order(order, spare.argsort(1)), order[:, -1:]], 1)
    d, mean, kept = d.in_order(order), in_order(mean, order), in_order(kept, order)
    joint = log_joint(x, mean, _only(kept, d.shape), sigma_x)
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


def _only(kept: Tensor, shape: Tensor) -> Tensor:
    return shape * kept[:, :, None, None, None]


def _with_regions(model: Generator, d: Decomposition, r: Tensor, rules: Rules) -> Decomposition:
    """The same layers with other regions, and what they cost."""
    s_t, scopes = torch.ones_like(r[:, 0]), []
    for r_t in r.unbind(1):
        scopes.append(s_t)
        s_t = next_scope(s_t, r_t)
    scope = torch.stack(scopes, 1)
    l_x = LayeredNormal(r, d.mean, rules.sigma_x).squared_error(d.image)
    l_r = kl_divergence(MeanBernoulli(r).to_event(3), model.region_prior(scope, d.shape))
    return replace(d, scope=scope, region=r, terms=d.terms._replace(x=l_x, r=l_r))
