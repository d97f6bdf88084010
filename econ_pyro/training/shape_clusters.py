r"""Shapes with which experts start: clusters of regions, whatever place, size and angle.

Experts that start alike share objects out by size or angle as readily as by shape, and stay
there: what each draws then fits what it wins. Clustering can be repeated from other starts, and
takes a second. Regions of scenes that touch no other region are whole objects. Each is brought to
one place, and to one size where decoders have a size. K-means assigns it to the nearest of the
means at its best angle, as in transformation-invariant clustering (Frey and Jojic, 1999; Monnier
et al., 2020):

.. math:: \min_{k, \theta} \| v_i(\theta) - \mu_k \|^2

The farthest tenth counts for neither means nor sum: regions that are no objects would get a mean
of their own. Of several runs from random means, the one with the smallest sum is kept. The
experts' shapes are then fitted to the means, and one more expert's to the whole image: the
background's, behind all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.accel.bilinear import sample
from econ_pyro.core.compositing import SCOPE_EPS
from econ_pyro.core.pose import UNIT, centre, coordinates, directions, log_size_of, turned
from econ_pyro.errors import EconError
from econ_pyro.guides.object_centred_encoder import ObjectCentredEncoder
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder, draw_shapes

SMALLEST = 20  # pixels of a region, of which fewer show no shape
SIDE = 24  # of the grid on which regions are compared
REACH = 1.75  # of that grid at least, in units of a disc's radius
INSIDE = 0.95  # of the regions: they lie within the reach
ANGLES = 24  # of a full turn
RESTARTS = 20
KEPT = 0.9  # of the regions: the others are like no cluster
ROUNDS = 50  # of K-means, which ends earlier where nothing changes
LEAST = 10  # regions of a cluster, on average
FIT_STEPS, FIT_RATE = 400, 1e-2
# largest probability that is fitted: what an image's thousands of pixels cost because nobody is
# sure of them would be saved first by the expert that learns first, which would win all objects
SURE = 0.9995


class Clusters(NamedTuple):
    """Of regions."""

    means: Tensor
    """``(K, 1, SIDE, SIDE)`` in [0, 1]."""
    k: Tensor
    """To which each region belongs, ``(n,)``."""
    loss: float
    """Sum of squared distances, of the nearest nine tenths."""


def whole_regions(region: Tensor) -> Tensor:
    """Connected regions of objects that touch neither one another nor the image's edge.

    The largest of each scene is its background.

    Args:
        region: soft regions of decomposed scenes, ``(B, T, 1, H, W)``.

    Returns:
        ``(n, 1, H, W)`` of 0 and 1.
    """
    hard = (region > 0.5).squeeze(2)
    area = hard.sum((2, 3))
    rows, background = torch.arange(len(hard), device=hard.device), area.argmax(1)
    hard[rows, background] = False
    near = F.max_pool2d(hard.float(), 3, 1, 1) > 0
    taken = hard.sum(1, keepdim=True) - hard.long()
    touches = (near & (taken > 0)).any(3).any(2)
    inner = hard[:, :, 1:-1, 1:-1].sum((2, 3))
    whole = ~touches & (inner == area) & (area >= SMALLEST)
    whole[rows, background] = False
    eight = ndimage.generate_binary_structure(2, 2)  # neighbours of a pixel
    found = [r for r in hard[whole] if ndimage.label(r.cpu(), eight)[1] == 1]
    return torch.stack(found)[:, None].float() if found else hard[:0, :1].float()


def aligned(r: Tensor, angles: int, sized: bool = True) -> tuple[Tensor, float]:
    """Regions at one place and size, at each of so many angles of a full turn.

    Args:
        r: regions of 0 and 1, ``(n, 1, H, W)``.
        angles: number of angles A.
        sized: whether they are brought to one size; otherwise each keeps its own, as decoders
            without a size would draw it.

    Returns:
        ``(n, A, SIDE * SIDE)``, and how far they reach from their middle in units of a disc's
        radius.
    """
    grid = coordinates(r.shape[2], r.device).to(r)
    soft = r.clamp_min(SCOPE_EPS)
    position = centre(soft, grid)
    radius = torch.full_like(position[:, :1], UNIT)
    if sized:
        radius = radius * log_size_of(soft, position, grid).exp()
    away = (grid - position[:, :, None, None]).square().sum(1, keepdim=True).sqrt()
    farthest = (away * r).amax((1, 2, 3)) / radius[:, 0]
    reach = max(REACH, farthest.quantile(INSIDE).item())
    turn = directions(2 * math.pi / angles * torch.arange(angles, device=r.device)).to(r)
    own = reach * coordinates(SIDE, r.device).to(r)  # (1, 2, S, S)
    where = turned(own[:, :, None], turn.mT[None, :, :, None, None])  # (1, 2, A, S, S)
    views = [
        sample(one[None], (p[:, None] + rad * where[0].flatten(1))[None].unflatten(2, (-1, SIDE)))
        for one, p, rad in zip(r, position, radius, strict=True)
    ]
    return torch.cat(views).view(len(r), angles, SIDE * SIDE), reach


def cluster(views: Tensor, clusters: int, seed: int) -> Clusters:
    """K-means at the best angle of each view, from several starts.

    Args:
        views: of :func:`aligned`, ``(n, A, P)``.
        clusters: number of means.
        seed: of the starts.
    """
    generator = torch.Generator(views.device).manual_seed(seed)
    return min(
        (_k_means(views, _spread(views, clusters, generator)) for _ in range(RESTARTS)),
        key=lambda found: found.loss,
    )


def _spread(views: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Means far from one another, as k-means++ draws them, ``(K, P)``."""
    first = torch.randint(len(views), (1,), generator=generator, device=views.device)
    means = views[first, 0]
    for _ in range(clusters - 1):
        far = _distances(views, means).amin((1, 2)) + 1e-6
        new = torch.multinomial(far, 1, generator=generator)
        means = torch.cat([means, views[new, 0]])
    return means


def _k_means(views: Tensor, means: Tensor) -> Clusters:
    rows, k = torch.arange(len(views), device=views.device), None
    for _ in range(ROUNDS):
        best, angle = _distances(views, means).min(1)  # (n, K)
        nearest, new = best.min(1)
        if k is not None and torch.equal(new, k):
            break
        k = new
        near = nearest <= nearest.quantile(KEPT)
        turned_so = views[rows, angle[rows, k]]
        own = [near & (k == i) for i in range(len(means))]
        means = torch.stack(
            [turned_so[i].mean(0) if i.any() else m for i, m in zip(own, means, strict=True)]
        )
    return Clusters(means.view(-1, 1, SIDE, SIDE), new, nearest[near].sum().item())


def _distances(views: Tensor, means: Tensor) -> Tensor:
    """Squared, ``(n, A, K)``."""
    inner = views @ means.mT
    lengths = views.square().sum(2, keepdim=True) + means.square().sum(1)
    return (lengths - 2 * inner).clamp_min(0)


def fit_shapes(
    decoders: Sequence[ObjectCentredDecoder], means: Tensor, reach: float = REACH
) -> float:
    """Make the experts' shapes those of the clusters.

    Args:
        decoders: K of them, each with one shape; the last one's becomes the whole image.
        means: ``(K - 1, 1, SIDE, SIDE)`` in [0, 1].
        reach: of :func:`aligned`.

    Returns:
        Mean cross-entropy of a pixel after it, in nats above that of the means themselves.
    """
    wide = decoders[0].wide
    where = wide[:, :2].expand(len(means), -1, -1, -1) / reach
    target = sample(means.to(wide), where).clamp(1 - SURE, SURE)
    target = torch.cat([target, torch.full_like(target[:1], SURE)])
    parameters = [p for d in decoders for p in d.shape_parameters()]
    optim = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=FIT_RATE)
    for _ in range(FIT_STEPS):
        bump = torch.stack([d.bump for d in decoders])[:, None, None, None]
        logits = torch.cat(list(draw_shapes(decoders))) + bump * wide[:, 2:]
        loss = F.binary_cross_entropy_with_logits(logits, target)
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
    optim.zero_grad(set_to_none=True)
    return loss.item() - F.binary_cross_entropy(target, target).item()


def start_from_clusters(
    decoders: Iterable[nn.Module],
    encoders: Iterable[nn.Module],
    region: Tensor,
    seed: int,
) -> Clusters:
    """Start the experts from clusters of regions, and the last one as the background.

    Args:
        decoders: K of them, each with one shape.
        encoders: K of them, which will put shapes at the centres of mass of their regions.
        region: soft regions of decomposed scenes, ``(B, T, 1, H, W)``.
        seed: of the clusters.

    Returns:
        The clusters of the objects.

    Raises:
        EconError: too few regions are whole.
    """
    objects = whole_regions(region)
    shapes = [d for d in decoders if isinstance(d, ObjectCentredDecoder)]
    clusters = len(shapes) - 1
    if len(objects) < LEAST * clusters:
        raise EconError(
            f"at least {LEAST * clusters} objects that touch neither one another nor the "
            f"image's edge in the {len(region)} images of recipe.shape-clusters",
            str(len(objects)),
            "raise --recipe.shape-clusters, or start from blobs: --recipe.shape-clusters 0 "
            "--recipe.shapes-fixed-until 0",
        )
    views, reach = aligned(objects, ANGLES, shapes[0].has_size)
    found = cluster(views, clusters, seed)
    fit_shapes(shapes, found.means, reach)
    for encoder in encoders:
        assert isinstance(encoder, ObjectCentredEncoder)
        encoder.start_at_centre()
    return found
