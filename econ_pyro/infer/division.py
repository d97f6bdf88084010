r"""Two layers that touch, divided anew.

Where two objects of one colour touch, competitions find one region, take an object out of its
middle, and leave the rest to another layer. Each then fits what it has been given, and no step of
refinement, which changes one layer at a time, gets out of that. So the two most alike of the
layers that touch are explained anew together, from several starts, and the likeliest is kept (the
split and merge moves of Ueda et al., 2000). Each start is a half plane through the middle of
their common region: one layer is explained from its half, with a scope in which the other half is
taken already, so that it may reach there at no cost; the other one from what that leaves.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.core.compositing import mean_over, next_scope, region
from econ_pyro.core.pose import centre, coordinates, directions
from econ_pyro.infer.competition import Proposals, propose
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.depth_order import MARGIN
from econ_pyro.infer.mixture import PLAIN, Mixture, log_evidence
from econ_pyro.infer.protocols import Guide, Model
from econ_pyro.infer.refinement import replaced

DIRECTIONS = 16  # of the half planes
ALIKE = 0.25  # distance of two mean colours, black to white 1 a channel
AT_ONCE = 8  # images
TOUCHING = 2.0  # pixels of a region that lie beside another


def most_alike(d: Decomposition) -> tuple[Tensor, Tensor]:
    """Which two objects of each image touch and are most alike in colour, up to ALIKE.

    Args:
        d: layers, those of no object without a region.

    Returns:
        The two ``(B, 2)``, and whether there are any, ``(B,)`` bool.
    """
    batch, slots = d.k.shape
    r = d.region[:, :-1]
    images = d.image.repeat_interleave(slots - 1, 0)
    colour = mean_over(r.flatten(0, 1), images).unflatten(0, (batch, slots - 1))
    around = F.max_pool2d(r.flatten(0, 1), 3, stride=1, padding=1).view_as(r)
    pairs = torch.tensor(list(combinations(range(slots - 1), 2)), device=r.device)  # (P, 2)
    a, b = pairs.unbind(1)
    beside = (around[:, a] * r[:, b]).sum((2, 3, 4)) > TOUCHING
    off = (colour[:, a] - colour[:, b]).square().sum(2).masked_fill(~beside, torch.inf)
    least, i = off.min(1)
    return pairs[i], least < ALIKE**2


@torch.no_grad()
def divide_again(
    model: Model, guide: Guide, d: Decomposition, lam: float, mixture: Mixture = PLAIN
) -> Decomposition:
    """Explain the two most alike of the layers that touch anew, from DIRECTIONS half planes.

    Args:
        model: p.
        guide: q; its attention plays no part.
        d: refined layers.
        lam: weight of L_x in the competition.
        mixture: what the pixels are.

    Returns:
        The layers, those two anew in images that become likelier.
    """
    if d.k.shape[1] < 3:
        return d
    pair, alike = most_alike(d)
    if torch.compiler.is_compiling():  # an export is of all images, whatever they show
        return _likeliest(model, guide, d, pair, alike, lam, mixture)
    found = alike.nonzero()[:, 0]
    if not found.numel():
        return d
    parts = [
        _likeliest(model, guide, d[i], pair[i], alike[i], lam, mixture)
        for i in found.split(AT_ONCE)
    ]
    rows = torch.arange(len(d), device=d.k.device)
    rows[found] = len(d) + torch.arange(len(found), device=d.k.device)
    return Decomposition.cat([d, *parts])[rows]


def _likeliest(
    model: Model,
    guide: Guide,
    d: Decomposition,
    pair: Tensor,
    alike: Tensor,
    lam: float,
    mixture: Mixture,
) -> Decomposition:
    """What :func:`divide_again` returns, of images whose pairs are given: all starts at once."""
    slots, tries = d.k.shape[1], DIRECTIONS + 1
    index = torch.arange(slots, device=pair.device)
    first, second = (index == t[:, None] for t in pair.repeat_interleave(tries, 0).unbind(1))
    every = torch.arange(pair.shape[0], device=pair.device).repeat_interleave(tries)
    many = d.picked(every[:, None].expand(-1, slots), index.expand(every.shape[0], -1))
    both = ((first | second)[:, :, None, None, None] * many.region).sum(1).clamp(max=1)
    others = ~(first | second | (index == slots - 1))
    left = (1 - (others[:, :, None, None, None] * many.region).sum(1)).clamp(0, 1)
    one, other = _divided(model, guide, many, left, both, _halves(both, tries), lam)
    anew = replaced(replaced(many, first, *one), second, *other)
    start = torch.arange(every.shape[0], device=pair.device) % tries == DIRECTIONS
    tried = anew.where((~start)[:, None].expand(-1, slots), many)  # the last is as it was
    kept = (many.area > 0) | ((first | second) & ~start[:, None])
    likely = log_evidence(tried, kept, model.pixel_noise, mixture) + MARGIN * start
    likely = likely.unflatten(0, (-1, tries))
    best = torch.where(alike, likely.argmax(1), DIRECTIONS)
    row = torch.arange(pair.shape[0], device=pair.device) * tries + best
    return tried.picked(row[:, None].expand(-1, slots), index.expand(row.shape[0], -1))


def _halves(r: Tensor, tries: int) -> Tensor:
    """Half planes through the centres of regions, of 0 and 1, ``(n, 1, H, W)``.

    Args:
        r: regions, ``(n, 1, H, W)``, of which ``tries`` each are of one image.
        tries: of which the direction turns from one to the next.
    """
    grid = coordinates(r.shape[-1], r.device).to(r)
    off = grid - centre(r, grid)[:, :, None, None]  # (n, 2, H, W)
    angle = torch.arange(r.shape[0], device=r.device) % tries * (2 * math.pi / DIRECTIONS)
    return ((directions(angle)[:, :, None, None] * off).sum(1, keepdim=True) > 0).to(r)


def _divided(
    model: Model,
    guide: Guide,
    d: Decomposition,
    left: Tensor,
    both: Tensor,
    half: Tensor,
    lam: float,
) -> tuple[tuple[Tensor, Proposals], tuple[Tensor, Proposals]]:
    """Two objects in one region: what the experts lose, and what the best proposes, of each.

    Args:
        model: p.
        guide: q.
        d: refined layers.
        left: what other objects leave, ``(n, 1, H, W)``.
        both: the region.
        half: the half plane from which the first is explained.
        lam: weight of L_x in the competition.
    """
    noise = torch.zeros_like(d.z[:, 0])
    s = (left - both * (1 - half)).clamp(0, 1)
    losses, one = _best(propose(model, guide, d.image, s, noise, both * half), lam)
    s, r = next_scope(left, region(left, one.shape)), both * (1 - one.shape)
    return (losses, one), _best(propose(model, guide, d.image, s, noise, r), lam)


def _best(proposals: Proposals, lam: float) -> tuple[Tensor, Proposals]:
    losses = proposals.terms.competition_loss(lam)
    return losses, proposals.of(losses.argmin(1))
