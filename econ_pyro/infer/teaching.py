r"""Attention that learns from the E-step: KL(r* || s a), beside the ELBO.

Given what all layers of an image draw, the best posterior of the regions is known in closed form:
each pixel belongs to layer t with its share in the mixture of the layers,

.. math:: r^*_{ti} \propto p_{ti} \exp(-\|x_i - \mu_{ti}\|^2 / 2 \sigma^2), \qquad
    p_{ti} = m_{ti} \prod_{u \text{ before } t} (1 - m_{ui}), \quad m_{Ti} = 1

(:func:`~econ_pyro.infer.refinement.e_step`). Over all regions that sum to 1, whatever attention
would have proposed, it minimises

.. math:: F(r) = \sum_i \sum_t r_{ti} (\|x_i - \mu_{ti}\|^2 / 2 \sigma^2 + \log(r_{ti} / p_{ti})),

which is L_x + L_r of the scene for binary regions. So a step in the manner of generalised EM
learns

* decoders and encoders by the ELBO at r* (M-step), and
* attention by maximum likelihood: the divergence from r* to the regions that attention would
  propose, with r* held fixed. Of a pixel that is in the scope with probability s, it is

  .. math:: \sum_k \sum_i s_i \, KL(Bern(r^*_{ki} / s_i) \| Bern(a_{ki})),

  which is KL(r* || s a) for binary scopes, and summed along a scene's own order is the divergence
  between the two posteriors of each pixel's layer.

F at attention's own regions is never below F(r*), and equals it where that sum is zero: there a
greedy pass gives the E-step's regions. (In wake-sleep terms this is a wake phase whose posterior
is exact in r, given z.) The appearances of the E-step are shifted to each layer's mean colour in
the image, and layers that are not worth their latents have no region; the ELBO knows neither.

Each expert is asked for one object at a time: its nearest one that is still in the scope, or for
nothing if it has none. Where several are the nearest, as none of them hides another, it is asked
for the leftmost: a network that was asked for any of them would propose a part of each. The
scopes are those of the scene's own order, and those that random subsets of the layers leave, as
greedy inference may take layers in another order.

What the layers draw can be put together to new scenes (:func:`recomposed`), whose regions are
known: of more objects than the images have, and of several of one class.

Regions that attention proposes miss some pixels of an object, which stay in the scope. So some
lessons have taken objects leave a part of themselves there (:func:`leftover`): no expert is to
propose what belongs to an object that has been taken.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.core.compositing import SCOPE_EPS, compose, regions_of_shapes
from econ_pyro.core.pose import coordinates
from econ_pyro.infer.decomposition import Decomposition

OWN_ORDER = 0.6  # share of the images whose scope is one of the scene's own order
LEFT = 0.6  # chance of a layer to be left in the scope of a random subset
RECOLOURED = (
    -0.6,
    1.0,
)  # least and largest multiple of an object's difference from the background
FEW = 2.0  # pixels: less of an object is neither seen nor hides another


class Scenes(NamedTuple):
    """What is known of B images: layers front to back, the last one the background."""

    image: Tensor
    """``(B, 3, H, W)``."""
    k: Tensor
    """``(B, T)``."""
    region: Tensor
    """r*, ``(B, T, 1, H, W)``."""
    shape: Tensor
    """``(B, T, 1, H, W)``."""
    objects: Tensor
    """Which layers hold an object, ``(B, T)`` bool; never the last."""


class Lesson(NamedTuple):
    """What attention is taught about B images."""

    seen: Tensor
    """Images as attention sees them, ``(B, 3, H, W)``."""
    scope: Tensor
    """``(B, 1, H, W)``."""
    region: Tensor
    """What each expert is to propose in that scope, ``(B, K, 1, H, W)``."""


def scenes_of(best: Decomposition) -> Scenes:
    """The scenes that an E-step found.

    Args:
        best: layers with their E-step regions, in order; those that explain nothing have none.
    """
    objects = best.area > 0
    objects[:, -1] = False
    return Scenes(best.image, best.k, best.region, best.shape, objects)


@torch.no_grad()
def recomposed(scenes: Scenes, mean: Tensor, most: int, recoloured: float = 0.0) -> Scenes:
    r"""New scenes of what the layers of a batch draw, in random number and order.

    Objects look as in their image where they are seen there, and as they are drawn where not.
    Those that are recoloured differ from their new background by a random multiple c of that,
    :math:`b + c\,(x - b)`; c is negative for some, so that an object may be darker than a
    background that all objects of the images are brighter than.

    Args:
        scenes: the batch.
        mean: appearances of its layers, ``(B, T, 3, H, W)``.
        most: objects of a scene at most; fewer where a batch has fewer layers.
        recoloured: share of the objects that are recoloured.

    Returns:
        B scenes of ``most + 1`` layers: each image's own background, and objects of any image.
    """
    n, slots = scenes.k.shape
    most = min(most, n * slots)
    r = scenes.region
    appearance = (r * scenes.image[:, None] + (1 - r) * mean).flatten(0, 1)
    shape, k = (scenes.shape > 0.5).to(mean).flatten(0, 1), scenes.k.flatten()
    there = scenes.objects.flatten().float().cpu() + 1e-9  # a batch may have too few
    drawn = torch.multinomial(there.expand(n, -1), most).to(k.device)
    layers = torch.cat([drawn, torch.arange(n, device=k.device)[:, None] * slots + slots - 1], 1)
    fewer = torch.arange(most) >= torch.randint(1, most + 1, (n, 1))
    objects = scenes.objects.flatten()[layers] & ~F.pad(fewer, (0, 1), value=True).to(k.device)
    m = shape[layers] * objects[:, :, None, None, None]
    m[:, -1] = 1
    region = regions_of_shapes(m)
    appearance = appearance[layers]
    if recoloured:
        ground, kept = appearance[:, -1:], torch.rand(n, most + 1) >= recoloured
        low, high = RECOLOURED
        c = torch.where(kept, 1.0, low + (high - low) * torch.rand(n, most + 1)).to(mean)
        appearance = ground + c[:, :, None, None, None] * (appearance - ground)
    image = compose(region, appearance).clamp(0, 1)
    return Scenes(image, k[layers], region, m, objects)


@torch.no_grad()
def lesson(
    seen: Tensor,
    scenes: Scenes,
    experts: int,
    uniform: Tensor,
    leftovers: Tensor | None = None,
) -> Lesson:
    """Draw a scope for each image, and find each expert's nearest object in it.

    Args:
        seen: images as attention sees them, ``(B, 3, H, W)``.
        scenes: what is known of them.
        experts: number of experts K.
        uniform: random numbers in [0, 1), ``(B, T + 1)``.
        leftovers: what the taken objects leave of themselves in the scope, ``(B, T, 1, H, W)`` in
            [0, 1] (:func:`leftover`), which no expert is to propose; nothing if not given.
    """
    k, r = scenes.k, scenes.region
    remaining = _remaining(uniform)
    left = remaining[:, :, None, None, None].to(r)
    if leftovers is not None:
        left = torch.maximum(left, leftovers)
    scope = (r * left).sum(1).clamp(0, 1)
    mine = k[:, :, None] == torch.arange(experts, device=k.device)  # (B, T, K)
    visible = remaining & scenes.objects & (r.sum((2, 3, 4)) > FEW)
    mine = mine & visible[:, :, None]
    hides = (scenes.shape.flatten(2) @ r.flatten(2).mT > FEW).tril(-1)  # layer u hides some of t
    hidden = (hides[:, :, :, None] & mine[:, None]).any(2)  # by another object of that expert
    columns = torch.arange(r.shape[-1], device=r.device).to(r)
    place = (r.sum((2, 3)) * columns).sum(2) / r.sum((2, 3, 4)).clamp_min(SCOPE_EPS)  # (B, T)
    place = place[:, :, None].masked_fill(~mine | hidden, torch.inf)
    rows = torch.arange(k.shape[0], device=k.device)[:, None]
    nearest = r[rows, place.argmin(1)]  # (B, K, 1, H, W)
    return Lesson(seen, scope, nearest * mine.any(1)[:, :, None, None, None])


@torch.no_grad()
def leftover(region: Tensor, uniform: Tensor, share: float) -> Tensor:
    """What an object may leave of itself in the scope when it has been taken, at random.

    Regions that attention proposes miss some pixels. In that share of the images, all objects
    leave one of: their contour, one pixel wide; what lies beyond a straight line, a sixth of a
    disc; a part of each pixel, at most half.

    Args:
        region: regions of the layers, ``(B, T, 1, H, W)``.
        uniform: random numbers in [0, 1), ``(B, 4)``.
        share: of the images.

    Returns:
        Share of each layer's pixels, ``(B, T, 1, H, W)``; 0 for the last.
    """
    used, kind, angle, amount = (u[:, None, None, None, None] for u in uniform.unbind(1))
    inside = -F.max_pool2d(-region.flatten(0, 1), 3, stride=1, padding=1).view_as(region)
    grid = coordinates(region.shape[-1], region.device).to(region)
    turn = 2 * math.pi * angle
    along = turn.cos() * grid[:, None, :1] + turn.sin() * grid[:, None, 1:]
    total = region.sum((3, 4), keepdim=True).clamp_min(SCOPE_EPS)
    mean = (region * along).sum((3, 4), keepdim=True) / total
    spread = ((region * (along - mean).square()).sum((3, 4), keepdim=True) / total).sqrt()
    beyond = (along > mean + spread).to(region)
    part = torch.where(kind < 1 / 3, 1 - inside, torch.where(kind < 2 / 3, beyond, amount / 2))
    part = part * (used < share)
    part[:, -1] = 0
    return part


def _remaining(uniform: Tensor) -> Tensor:
    """Which layers are still in the scope, ``(B, T)`` bool: the last always is."""
    slots = uniform.shape[1] - 1
    index = torch.arange(slots, device=uniform.device)
    taken = (uniform[:, :1] * (slots - 1)).long()  # so many from the front
    subset = uniform[:, :slots] < LEFT
    subset[:, -1] = True
    return torch.where(uniform[:, -1:] < OWN_ORDER, index >= taken, subset)


def divergence(guide: Any, lesson: Lesson) -> Tensor:
    """KL(r* || s a) of every expert's attention, ``(B,)`` nats, differentiable.

    Args:
        guide: q, with ``attention_logits``.
        lesson: what it is taught.
    """
    logits = guide.attention_logits(lesson.seen, lesson.scope)
    scope = lesson.scope[:, None]
    share = (lesson.region / scope.clamp_min(SCOPE_EPS)).clamp(0, 1)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
    entropy = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
    return (scope * (cross_entropy - entropy)).sum((1, 2, 3, 4))
