"""Segments of an image of flat colours, without a model: what a judge of scenes looks at.

Edges may be soft. A pixel is flat if three of its four neighbours have its colour. Flat pixels of
like colours that touch are one segment, as are segments of like colours apart, which may be parts
of one object that another one covers in the middle. All other pixels join a neighbouring segment:
of like colour if there is one, else of the nearest.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from econ_pyro.evaluation import matching

LIKE = 0.08
"""Largest difference of any channel between like colours, in [0, 1]."""
REACH = 2
"""Pixels from a flat pixel up to which an edge is no texture."""
_ALIKE = 3  # neighbours of a flat pixel that have its colour
_CORE = 3  # flat pixels that make a segment
_FOUR = ((0, 1), (1, 0))


def object_segments(image: Tensor) -> Tensor | None:
    """Visible regions of the objects of an image.

    The background is the segment with the most pixels on the image's border. Segments below the
    minimum area of a layer (:func:`~econ_pyro.evaluation.matching.smallest_area`) do not count.

    Args:
        image: ``(3, H, W)`` in [0, 1].

    Returns:
        ``(N, H, W)`` bool, disjoint, the largest first. None if the image is no scene of flat
        colours: at least the minimum area is farther than :data:`REACH` from any flat pixel.
    """
    x = image.detach().cpu().double().numpy()
    label, colours = _cores(x)
    least = matching.smallest_area(*x.shape[1:])
    if not len(colours) or (_distance(label < 0) > REACH).sum() >= least:
        return None
    label = _merged(_grown(x, label, colours), colours)
    areas = np.bincount(label.ravel())
    background = np.bincount(np.concatenate([label[[0, -1]].ravel(), label[:, [0, -1]].ravel()]),
                             minlength=len(areas)).argmax()  # fmt: skip
    order = [i for i in np.argsort(-areas, kind="stable") if i != background]
    found = [label == i for i in order if areas[i] >= least]
    return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, *x.shape[1:]).bool()


def _cores(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the segment of each flat pixel, -1 else, and the mean colours, ``(S, 3)``."""
    height, width = x.shape[1:]
    pixel, pairs = np.arange(height * width).reshape(height, width), []
    alike = np.zeros((height, width), dtype=np.int64)
    for down, right in _FOUR:
        near = (slice(0, height - down), slice(0, width - right))
        far = (slice(down, height), slice(right, width))
        like = np.abs(x[(slice(None), *near)] - x[(slice(None), *far)]).max(0) <= LIKE
        alike[near] += like
        alike[far] += like
        pairs.append((like, near, far))
    flat = alike >= _ALIKE
    links = []
    for like, near, far in pairs:
        both = like & flat[near] & flat[far]
        links.append(np.stack([pixel[near][both], pixel[far][both]]))
    i, j = np.concatenate(links, 1)
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(pixel.size, pixel.size))
    _, part = connected_components(graph, directed=False)
    part = np.where(flat, part.reshape(height, width), -1)
    kept, sizes = np.unique(part[flat], return_counts=True)
    label, colours = np.full_like(part, -1), []
    for number, old in enumerate(kept[sizes >= _CORE]):
        label[part == old] = number
        colours.append(x[:, part == old].mean(1))
    return label, np.array(colours).reshape(-1, 3)


def _distance(missing: np.ndarray) -> np.ndarray:
    """Steps from each pixel to the next one that is not missing, diagonal ones included."""
    return ndimage.distance_transform_cdt(missing, "chessboard")


def _grown(x: np.ndarray, label: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Give the other pixels to neighbouring segments: those of its colour, then all in rings."""
    distance = np.abs(x[None] - colours[:, :, None, None]).max(1)  # (S, H, W)
    for limit in (LIKE, np.inf):
        reached = np.ones_like(label, dtype=bool)
        while reached.any():
            members = label[None] == np.arange(len(colours))[:, None, None]
            beside = ndimage.maximum_filter(members, size=(1, 3, 3))
            nearest = np.where(beside, distance, np.inf)
            reached = (label < 0) & (beside & (distance <= limit)).any(0)
            label = np.where(reached, nearest.argmin(0), label)
    return label


def _merged(label: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Segments of like colours as one."""
    like = np.abs(colours[:, None] - colours).max(2) <= LIKE
    _, group = connected_components(coo_array(like), directed=False)
    return group[label]
