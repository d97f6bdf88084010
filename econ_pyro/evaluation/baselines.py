r"""Baselines that learn nothing: the scores to exceed before training is worth anything.

A segmentation baseline divides an image into T regions by colour or by position alone, or by both
(Felzenszwalb and Huttenlocher, 2004; if scikit-image is installed). The
background is the segment with the most pixels on the image's border; of several, the largest. It
is the last layer, as in a :class:`~econ_pyro.infer.decomposition.Decomposition`. The T - 1 largest
other segments are the layers before it, by decreasing area, which is no depth order. Any further
segment joins the background.

:func:`untrained` is the model itself before training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from econ_pyro import arguments
from econ_pyro.errors import EconError
from econ_pyro.evaluation.matching import hard_regions
from econ_pyro.guides.pretrained_features import keep_fitted
from econ_pyro.infer import scene_model
from econ_pyro.infer.scene_model import SceneModel

Segmentation = Callable[[Tensor, int], Tensor]
"""Images ``(B, 3, H, W)`` and T to regions ``(B, T, 1, H, W)``."""

_RESTARTS = 5  # of k-means; the restart with the smallest squared distances counts
_ITERATIONS = 50
_BATCH = 256  # images that are clustered at a time
_BLUR = 0.5  # pixels, of images before Felzenszwalb's segmentation
_LEAST = 20  # pixels of its segments


def one_colour_components(images: Tensor, slots: int) -> Tensor:
    """Connected components of pixels of exactly one 8-bit colour, with four neighbours each.

    Args:
        images: ``(B, 3, H, W)`` float in [0, 1].
        slots: number of layers T.

    Returns:
        ``(B, T, 1, H, W)`` float32 in {0, 1}, on the CPU; sums to 1 over T.

    Raises:
        EconError: the images have another shape or type, or ``slots`` is not a positive integer.
    """
    images, slots = _checked(images, slots)
    height, width = images.shape[2:]
    pixel = torch.arange(height * width).view(height, width)
    labels = torch.empty(len(images), height, width, dtype=torch.long)
    for b, image in enumerate((255 * images).round()):
        right = (image[:, :, 1:] == image[:, :, :-1]).all(0)
        below = (image[:, 1:] == image[:, :-1]).all(0)
        i = torch.cat([pixel[:, :-1][right], pixel[:-1][below]])
        j = torch.cat([pixel[:, 1:][right], pixel[1:][below]])
        edges = coo_array((torch.ones(len(i)), (i, j)), shape=(height * width, height * width))
        _, component = connected_components(edges, directed=False)
        labels[b] = torch.from_numpy(component).view(height, width)
    return _layers(labels, slots)


def colour_clusters(images: Tensor, slots: int) -> Tensor:
    """k-means on the colours of the pixels of each image, with k = T.

    Arguments, result and errors are those of :func:`one_colour_components`.
    """
    images, slots = _checked(images, slots)
    labels = [k_means(part.flatten(2).mT, slots) for part in images.split(_BATCH)]
    return _layers(torch.cat(labels).view(len(images), *images.shape[2:]), slots)


def position_only(images: Tensor, slots: int) -> Tensor:
    """k-means on the positions of the pixels, with k = T: the same T cells for every image.

    Arguments, result and errors are those of :func:`one_colour_components`.
    """
    images, slots = _checked(images, slots)
    height, width = images.shape[2:]
    position = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    labels = k_means(position[None], slots).view(1, height, width)
    return _layers(labels, slots).repeat(len(images), 1, 1, 1, 1)


def felzenszwalb(images: Tensor, slots: int, scale: float = 1000.0) -> Tensor:
    """Graph-based segmentation (Felzenszwalb and Huttenlocher, 2004), by scikit-image.

    Args:
        images: as of :func:`one_colour_components`, as are result and errors.
        slots: number of layers T.
        scale: the larger, the larger the segments, as for colours from 0 to 255.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    from skimage.segmentation import felzenszwalb as segments

    images, slots = _checked(images, slots)
    labels = torch.empty(len(images), *images.shape[2:], dtype=torch.long)
    for b, image in enumerate(images.permute(0, 2, 3, 1).double().numpy()):
        labels[b] = torch.from_numpy(segments(image, scale, _BLUR, _LEAST))
    return _layers(labels, slots)


SEGMENTATIONS: dict[str, Segmentation] = {
    "one-colour components": one_colour_components,
    "colour clusters": colour_clusters,
    "position only": position_only,
}
"""Segmentation baselines by name."""
if find_spec("skimage") is not None:
    # objects of several colours are found with small segments, shaded ones with large ones
    SEGMENTATIONS["felzenszwalb, scale 100"] = partial(felzenszwalb, scale=100.0)
    SEGMENTATIONS["felzenszwalb, scale 1000"] = felzenszwalb


def untrained(model: SceneModel) -> SceneModel:
    """The model of the same configuration, on the same device, with its initial weights.

    Pretrained features stay as they were fitted: they are what such a model starts with.
    """
    new = scene_model.build(model.config, next(model.parameters()).device)
    keep_fitted(model, new)
    return new


def _checked(images: Tensor, slots: int) -> tuple[Tensor, int]:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        got = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise EconError("images (B, 3, H, W), float in [0, 1]", got)
    return images.detach().cpu(), arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)


def _layers(labels: Tensor, slots: int) -> Tensor:
    """Arrange the segments of each image, ``(B, H, W)``, as layers, ``(B, T, 1, H, W)``."""
    border = torch.ones(labels.shape[1:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    layer = torch.empty_like(labels)
    for b, image in enumerate(labels):
        _, segment, area = image.unique(return_inverse=True, return_counts=True)
        on_border = segment[border].bincount(minlength=len(area))
        background = int((on_border * (labels[0].numel() + 1) + area).argmax())
        objects = area.argsort(descending=True, stable=True)
        objects = objects[objects != background][: slots - 1]
        layer_of = torch.full_like(area, slots - 1)
        layer_of[objects] = torch.arange(len(objects))
        layer[b] = layer_of[segment]
    return hard_regions(layer, slots)[:, :, None].float()


def k_means(points: Tensor, k: int) -> Tensor:
    """Index of the cluster of each point, ``(B, N)``, for points ``(B, N, D)``.

    Lloyd's algorithm from the starts of k-means++ (Arthur and Vassilvitskii, 2007). The random
    numbers are the same for every image and call.
    """
    points = points.double()
    found = points.new_zeros(points.shape[:2], dtype=torch.long)
    least = points.new_full(points.shape[:1], torch.inf)
    generator = Generator().manual_seed(0)
    for draws in torch.rand(_RESTARTS, k, generator=generator, dtype=points.dtype):
        labels, distance = _lloyd(points, _spread_centres(points, draws))
        better = distance < least
        found[better], least[better] = labels[better], distance[better]
    return found


def _spread_centres(points: Tensor, draws: Tensor) -> Tensor:
    """Starts of k-means++: points drawn in proportion to the squared distance from earlier ones.

    Args:
        points: ``(B, N, D)``.
        draws: numbers in [0, 1) that select the points, ``(k,)``.

    Returns:
        ``(B, k, D)``.
    """
    weight = torch.ones_like(points[..., 0])
    distance, centres = torch.full_like(weight, torch.inf), list[Tensor]()
    for draw in draws:
        total = weight.cumsum(1)
        index = torch.searchsorted(total, draw * total[:, -1:], right=True)
        # past the end if every point is a centre
        index = index.clamp_max(points.shape[1] - 1)
        centres.append(points.gather(1, index[..., None].expand(-1, -1, points.shape[2])))
        distance = distance.minimum((points - centres[-1]).square().sum(2))
        weight = distance
    return torch.cat(centres, 1)


def _lloyd(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Labels, ``(B, N)``, and the sum of squared distances, ``(B,)``; empty clusters stay."""
    labels = points.new_full(points.shape[:2], -1, dtype=torch.long)
    for _ in range(_ITERATIONS):
        # |p - c|^2 less |p|^2
        distance = centres.square().sum(2)[:, None] - 2 * points @ centres.mT  # (B, N, k)
        before, labels = labels, distance.argmin(2)
        if torch.equal(labels, before):
            break
        member = one_hot(labels, centres.shape[1]).to(points.dtype)
        size = member.sum(1)[..., None]  # (B, k, 1)
        centres = torch.where(size > 0, member.mT @ points / size.clamp_min(1), centres)
    own = centres.gather(1, labels[..., None].expand(-1, -1, points.shape[2]))
    return labels, (points - own).square().sum((1, 2))
