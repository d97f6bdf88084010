r"""Shapes with which experts start: clusters of regions, whatever place, size and angle.

Experts that start alike share objects out by size or angle as readily as by shape, and stay
there: what each draws then fits what it wins. Clustering can be repeated from other starts, and
takes a second. Regions of scenes that touch no other region are whole objects. Each is brought to
one place, and to one size where decoders have a size. K-means assigns it to the nearest of the
means at its best angle, as in transformation-invariant clustering (Frey and Jojic, 1999; Monnier
et al., 2020):

.. math:: \min_{k, \theta} \| v_i(\theta) - \mu_k \|^2

The farthest tenth counts for neither means nor sum: regions that are no objects would get a mean
of their own. Of several runs from random means, the one with the smallest sum is kept. Angles are
then searched more finely, and the means drawn at a finer resolution: half a step of 24 would round
corners. The experts' shapes are fitted to the means, and one more expert's to the whole image: the
background's, behind all.

Solids of different classes may have much the same outline, but are shaded otherwise. If asked to,
views also have a map of shading: the log of a pixel's brightness over the object's median. The
experts' appearances are then fitted to the means of the shading, in any of the objects' colours.
Where shapes have latents beside the pose, objects of a class differ in slant, for one: they are
clustered at their best angles, and experts start with means of the objects as they are seen.
Or classes have colours of their own: views then have the colours themselves, and appearances are
fitted to those of each cluster's objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.accel.bilinear import sample
from econ_pyro.core.compositing import SCOPE_EPS, mean_over
from econ_pyro.core.pose import UNIT, centre, coordinates, directions, log_size_of, turned
from econ_pyro.errors import EconError
from econ_pyro.guides.object_centred_encoder import ObjectCentredEncoder
from econ_pyro.guides.seeded import DARK
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder, draw_shapes

SMALLEST = 20  # pixels of a region, of which fewer show no shape
SIDE = 24  # of the grid on which regions are compared
REACH = 1.75  # of that grid at least, in units of a disc's radius
INSIDE = 0.95  # of the regions: they lie within the reach
ANGLES = 24  # of a full turn
RESTARTS = 20
FINE_SIDE = 40  # of the grid of the means
FINE_ROUNDS = 4  # of finer angles, each half as wide as the one before
FINE_ANGLES = 5
KEPT = 0.9  # of the regions: the others are like no cluster
SHADES = 0.5  # largest shading: of gloss, it is not all that counts
ROUNDS = 50  # of K-means, which ends earlier where nothing changes
LEAST = 10  # regions of a cluster, on average
FIT_STEPS, FIT_RATE = 400, 1e-2
FIT_COLOURS, FIT_POINTS = 16, 256  # at a step
LOOK_STEPS = 1500  # eyes and outlines take longer than shading
# largest probability that is fitted: what an image's thousands of pixels cost because nobody is
# sure of them would be saved first by the expert that learns first, which would win all objects
SURE = 0.9995


class Clusters(NamedTuple):
    """Of regions."""

    means: Tensor
    """``(K, C, S, S)``: regions, in [0, 1], then further maps."""
    k: Tensor
    """To which each region belongs, ``(n,)``."""
    angle: Tensor
    """At which each region is nearest to its mean, in radians, ``(n,)``."""
    near: Tensor
    """Which regions count, ``(n,)`` bool."""
    loss: float
    """Sum of squared distances, of the nearest nine tenths."""


class Whole(NamedTuple):
    """Objects that are seen as a whole."""

    region: Tensor
    """``(n, 1, H, W)`` of 0 and 1."""
    image: Tensor
    """In which each is seen, ``(n, 3, H, W)``."""


def whole_regions(region: Tensor, images: Tensor) -> Whole:
    """Connected regions of objects that touch neither one another nor the image's edge.

    The largest of each scene is its background.

    Args:
        region: soft regions of decomposed scenes, ``(B, T, 1, H, W)``.
        images: those scenes, ``(B, 3, H, W)``.
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
    one = [i for i, r in enumerate(hard[whole]) if ndimage.label(r.cpu(), eight)[1] == 1]
    found = hard[whole][one][:, None].float()
    return Whole(found, images[whole.nonzero()[one, 0]].to(found))


def shading(images: Tensor, r: Tensor) -> Tensor:
    """Log of the brightest channel over its median in a region, at most SHADES.

    Args:
        images: ``(n, 3, H, W)``.
        r: regions of 0 and 1, ``(n, 1, H, W)``.

    Returns:
        ``(n, 1, H, W)``, 0 outside.
    """
    bright = images.amax(1, keepdim=True).clamp_min(DARK)
    inside = torch.where(r > 0, bright, torch.nan).flatten(1)
    median = inside.nanmedian(1).values[:, None, None, None]
    return (bright / median).log().clamp(-SHADES, SHADES) * r


class Aligned:
    """Regions at one place and, if they are brought to one, at one size.

    Args:
        r: regions of 0 and 1, ``(n, 1, H, W)``.
        sized: whether they are brought to one size; otherwise each keeps its own, as decoders
            without a size would draw it.
        maps: further maps of what they look like, 0 outside, ``(n, C - 1, H, W)``.

    Attributes:
        reach: how far nearly all regions reach from their middle, in units of a disc's radius.
    """

    def __init__(self, r: Tensor, sized: bool = True, maps: Tensor | None = None) -> None:
        grid = coordinates(r.shape[2], r.device).to(r)
        soft = r.clamp_min(SCOPE_EPS)
        self._looks = r if maps is None else torch.cat([r, maps], 1)
        self._position = centre(soft, grid)
        self._radius = torch.full_like(self._position[:, :1], UNIT)
        if sized:
            self._radius = self._radius * log_size_of(soft, self._position, grid).exp()
        away = (grid - self._position[:, :, None, None]).square().sum(1, keepdim=True).sqrt()
        farthest = (away * r).amax((1, 2, 3)) / self._radius[:, 0]
        self.reach = max(REACH, farthest.quantile(INSIDE).item())

    def views(self, angle: Tensor, side: int = SIDE) -> Tensor:
        """Regions as they look when turned.

        Args:
            angle: radians, ``(n, A)``.
            side: of the grid.

        Returns:
            ``(n, A, C * side * side)``.
        """
        own = self.reach * coordinates(side, angle.device).to(self._looks)[0]  # (2, S, S)
        views = []
        looks = zip(self._looks, self._position, self._radius, angle, strict=True)
        for one, p, radius, each in looks:
            turn = directions(each).mT[None, :, :, None, None]  # (1, 2, A, 1, 1)
            where = turned(own[None, :, None], turn)[0]  # (2, A, S, S)
            at = p[:, None] + radius * where.flatten(1)
            views.append(sample(one[None], at[None].unflatten(2, (-1, side))))  # (1, C, A S, S)
        return torch.cat(views).unflatten(2, (-1, side)).transpose(1, 2).flatten(2)

    def all_around(self, angles: int) -> Tensor:
        """The same at so many angles of a full turn, ``(n, A, C * SIDE * SIDE)``."""
        steps = torch.arange(angles, device=self._looks.device).to(self._looks)
        return self.views((2 * math.pi / angles * steps).expand(len(self._looks), -1))


def cluster(views: Tensor, clusters: int, seed: int) -> Clusters:
    """K-means at the best angle of each view, from several starts.

    Args:
        views: of :meth:`Aligned.all_around`, ``(n, A, P)``.
        clusters: number of means.
        seed: of the starts.
    """
    generator = torch.Generator(views.device).manual_seed(seed)
    # a single angle takes a fraction of the time, and of ten clusters 20 runs may miss one
    restarts = RESTARTS if views.shape[1] > 1 else 10 * RESTARTS
    return min(
        (_k_means(views, _spread(views, clusters, generator)) for _ in range(restarts)),
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
        near, at = nearest <= nearest.quantile(KEPT), angle[rows, k]
        means = _means(views[rows, at], k, near, means)
    radians = 2 * math.pi / views.shape[1] * at.to(views)
    loss = nearest[near].sum().item()
    return Clusters(means.view(len(means), -1, SIDE, SIDE), new, radians, near, loss)


def _means(views: Tensor, k: Tensor, near: Tensor, before: Tensor) -> Tensor:
    """Of the regions that count; a cluster without any keeps the mean that it had."""
    own = [near & (k == i) for i in range(len(before))]
    return torch.stack(
        [views[i].mean(0) if i.any() else m for i, m in zip(own, before, strict=True)]
    )


def sharpen(regions: Aligned, found: Clusters, angles: bool = True) -> Clusters:
    """The same clusters, with means of FINE_SIDE and, if there are angles, finer ones."""
    rows, angle = torch.arange(len(found.k), device=found.k.device), found.angle
    means = F.interpolate(found.means, (FINE_SIDE, FINE_SIDE), mode="bilinear", align_corners=True)
    means = means.flatten(1)
    width = math.pi / ANGLES  # half a step
    for _ in range(FINE_ROUNDS if angles else 1):
        offsets = width * torch.linspace(-1, 1, FINE_ANGLES, device=angle.device)
        offsets = offsets if angles else offsets.new_zeros(1)
        tried = angle[:, None] + offsets.to(angle)
        views = regions.views(tried, FINE_SIDE)
        at = (views - means[found.k][:, None]).square().sum(2).argmin(1)
        angle = tried[rows, at]
        means = _means(views[rows, at], found.k, found.near, means)
        width /= 2
    means = means.view(len(means), -1, FINE_SIDE, FINE_SIDE)
    return found._replace(means=means, angle=angle)


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
        decoders: K of them, with shapes apart from appearances; the last one's becomes the whole
            image. If shapes have latents beside the pose, these change nothing until training
            gives them a meaning.
        means: ``(K - 1, 1, S, S)`` in [0, 1].
        reach: of :class:`Aligned`.

    Returns:
        Mean cross-entropy of a pixel after it, in nats above that of the means themselves.
    """
    wide = decoders[0].wide
    where = wide[:, :2].expand(len(means), -1, -1, -1) / reach
    target = sample(means.to(wide), where).clamp(1 - SURE, SURE)
    target = torch.cat([target, torch.full_like(target[:1], SURE)])
    parameters = [p for d in decoders for p in d.shape_parameters()]
    optim = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=FIT_RATE)
    more = decoders[0].shape_inputs - 3
    z = wide.new_zeros(1, more) if more else None
    for decoder in decoders:
        first = decoder.shape.blocks[0]
        assert isinstance(first, nn.Conv2d)
        with torch.no_grad():
            first.weight[:, 3:] = 0.0
    for _ in range(FIT_STEPS):
        bump = torch.stack([d.bump for d in decoders])[:, None, None, None]
        logits = torch.cat(list(draw_shapes(decoders, z))) + bump * wide[:, 2:]
        loss = F.binary_cross_entropy_with_logits(logits, target)
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
    optim.zero_grad(set_to_none=True)
    return loss.item() - F.binary_cross_entropy(target, target).item()


def fit_shading(
    decoders: Sequence[ObjectCentredDecoder],
    means: Tensor,
    colours: Tensor,
    seed: int,
    reach: float = REACH,
) -> float:
    """Make the experts' appearances, of any colour, shaded as the clusters are.

    Args:
        decoders: K of them, with an appearance apart from the shape; the last one's stays.
        means: regions and shading, ``(K - 1, 2, S, S)``.
        colours: of objects, of which some are drawn at random, ``(n, 3)`` in [0, 1].
        seed: of what is drawn at random.
        reach: of :class:`Aligned`.

    Returns:
        Mean absolute error after it, in units of white.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = decoders[0].wide[0].flatten(1)  # (3, S * S)
    where = decoders[0].wide[:, :2].expand(len(means), -1, -1, -1) / reach
    region, shade = sample(means.to(wide), where).flatten(2).unbind(1)
    light = (shade / region.clamp_min(0.5)).exp()
    own = [(r > 0.5 * r.max()).nonzero()[:, 0] for r in region]
    light = torch.stack([f / f[i].mean() for f, i in zip(light, own, strict=True)])

    def error() -> Tensor:
        drawn = torch.randint(len(colours), (FIT_COLOURS,), generator=generator)
        colour = colours[drawn].to(wide).clamp(DARK, 1 - DARK)
        z = _latents_of(colour, decoders[0], generator)
        loss = wide.new_zeros(())
        for decoder, i, f in zip(decoders, own, light, strict=False):
            some = i[torch.randint(len(i), (FIT_POINTS,), generator=generator).to(i.device)]
            target = (colour[:, :, None] * f[some]).clamp(DARK, 1 - DARK)
            loss = loss + (decoder.appearance_at(wide[:, some], z) - target).abs().mean()
        return loss

    return _fit_appearances(decoders, error, [FIT_RATE] * FIT_STEPS)


def fit_looks(
    decoders: Sequence[ObjectCentredDecoder],
    views: Tensor,
    k: Tensor,
    colours: Tensor,
    seed: int,
    reach: float = REACH,
) -> float:
    """Make the experts' appearances those of the objects of their clusters.

    Args:
        decoders: K of them, with an appearance apart from the shape; the last one's stays.
        views: regions and colours of objects, ``(n, 4, S, S)``.
        k: the cluster of each, ``(n,)``.
        colours: the mean colour of each, ``(n, 3)`` in [0, 1].
        seed: of what is drawn at random.
        reach: of :class:`Aligned`.

    Returns:
        Mean absolute error after it, in units of white.
    """
    generator = torch.Generator().manual_seed(seed)
    points = decoders[0].wide[0].flatten(1)  # (3, S * S)
    members = [(k == i).nonzero()[:, 0] for i in range(len(decoders) - 1)]

    def error() -> Tensor:
        loss = points.new_zeros(())
        for decoder, own in zip(decoders, members, strict=False):
            if not len(own):  # a mean that no object is near
                continue
            some = own[torch.randint(len(own), (FIT_COLOURS,), generator=generator).to(own.device)]
            at = torch.randint(points.shape[1], (8 * FIT_POINTS,), generator=generator)
            where = points[:, at.to(points.device)]
            near = where[:2].abs().amax(0) < reach
            where = where[:, near]
            grid = (where[:2] / reach)[None, :, None].expand(len(some), -1, -1, -1)
            region, target = sample(views[some].to(points), grid)[:, :, 0].tensor_split([1], 1)
            colour = colours[some].to(points).clamp(DARK, 1 - DARK)
            z = _latents_of(colour, decoder, generator)
            inside = (region > 0.5).to(target)
            off = (decoder.appearance_at(where, z) - target).abs() * inside
            loss = loss + off.sum() / (3 * inside.sum()).clamp_min(1)
        return loss

    cosine = [(1 + math.cos(math.pi * step / LOOK_STEPS)) / 2 for step in range(LOOK_STEPS)]
    return _fit_appearances(decoders, error, [FIT_RATE * share for share in cosine])


def _latents_of(
    colours: Tensor, decoder: ObjectCentredDecoder, generator: torch.Generator
) -> Tensor:
    """Latents beside the pose of objects of these colours, ``(n, 3)``; the others are random."""
    z = torch.randn(len(colours), decoder.colour.in_features, generator=generator).to(colours)
    return torch.cat([z[:, :-3], colours.logit().asinh()], 1)


def _fit_appearances(
    decoders: Sequence[ObjectCentredDecoder], error: Callable[[], Tensor], rates: Sequence[float]
) -> float:
    """Fit all appearances but the last one's, a step for each learning rate.

    Args:
        decoders: K of them.
        error: sum of the experts' errors on a new sample.
        rates: of learning.

    Returns:
        Mean error of an expert in the last tenth of the steps.
    """
    parameters = [p for d in decoders[:-1] for p in d.appearance_parameters()]
    optim, last = torch.optim.Adam([p for p in parameters if p.requires_grad]), []
    for rate in rates:
        optim.param_groups[0]["lr"] = rate
        loss = error()
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        last.append(loss.item() / (len(decoders) - 1))
    optim.zero_grad(set_to_none=True)
    return mean_of_last(last)


def mean_of_last(losses: Sequence[float]) -> float:
    """Mean of the last tenth of some losses: those of single steps scatter."""
    tenth = losses[-max(1, len(losses) // 10) :]
    return sum(tenth) / len(tenth)


def start_from_clusters(
    decoders: Iterable[nn.Module],
    encoders: Iterable[nn.Module],
    objects: Whole,
    seed: int,
    shaded: float = 0.0,
    coloured: float = 0.0,
) -> Clusters:
    """Start the experts from clusters of regions, and the last one as the background.

    Args:
        decoders: K of them, with shapes apart from appearances.
        encoders: K of them, which will put shapes at the centres of mass of their regions.
        objects: which are clustered.
        seed: of the clusters.
        shaded: weight of shading beside shape; 0: shapes alone.
        coloured: weight of colours beside shape, likewise.

    Returns:
        The clusters of the objects.

    Raises:
        EconError: they are too few.
    """
    shapes = [d for d in decoders if isinstance(d, ObjectCentredDecoder)]
    clusters, region = len(shapes) - 1, objects.region
    if len(region) < LEAST * clusters:
        raise EconError(
            f"at least {LEAST * clusters} objects that touch neither one another nor the "
            "image's edge in the images of recipe.shape-clusters",
            str(len(region)),
            "raise --recipe.shape-clusters (of cutouts, --recipe.grouping-images), or start from "
            "blobs: --recipe.shape-clusters 0 --recipe.shapes-fixed-until 0",
        )
    maps = shaded * shading(objects.image, region) if shaded else None
    if coloured:
        maps = coloured * objects.image * region
    whole = Aligned(region, shapes[0].has_size, maps)
    looks = shapes[0].shape_inputs > 3  # latents of shape, which may be slants
    angles = ANGLES if shapes[0].has_angle or looks else 1
    found = cluster(whole.all_around(angles), clusters, seed)
    if looks:  # clusters hold at any angle, their means as objects are seen
        found = found._replace(angle=torch.zeros_like(found.angle))
    found = sharpen(whole, found, shapes[0].has_angle)
    fit_shapes(shapes, found.means[:, :1], whole.reach)
    colours = mean_over(region, objects.image)
    if shaded:
        means = torch.cat([found.means[:, :1], found.means[:, 1:] / shaded], 1)
        fit_shading(shapes, means, colours, seed, whole.reach)
    if coloured:
        views = whole.views(found.angle[:, None], FINE_SIDE).view(len(region), 4, FINE_SIDE, -1)
        views = torch.cat([views[:, :1], views[:, 1:] / coloured], 1)[found.near]
        fit_looks(shapes, views, found.k[found.near], colours[found.near], seed, whole.reach)
    for encoder in encoders:
        assert isinstance(encoder, ObjectCentredEncoder)
        encoder.start_at_centre()
    return found
