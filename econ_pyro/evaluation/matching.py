r"""Matching of predicted layers to true objects, and scores: IoU, counting, depth order.

All scores use the same assignment. The Hungarian method matches present layers, except the
background, to true objects such that the sum of their visible IoU is maximal:

- A layer is present if it has the largest region at ``smallest_area`` pixels or more.
- The background layer is the present layer that covers most of the true background; without a
  true background, the last present layer.
- True objects without a visible pixel are left out. A match must overlap by at least one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MIN_AREA = 0.008  # minimum area of a present layer as a fraction of the image
UNMATCHED = -1


def smallest_area(height: int, width: int) -> int:
    """Minimum area of a present layer in pixels: 8 for 32x32 images, at least 1."""
    return max(1, round(MIN_AREA * height * width))


def hard_regions(segmentation: Tensor, layers: int) -> Tensor:
    """Convert a segmentation to one mask per layer.

    Args:
        segmentation: index of the layer at each pixel, ``(B, H, W)``.
        layers: number of layers T.

    Returns:
        ``(B, T, H, W)`` bool, disjoint.
    """
    return segmentation[:, None] == torch.arange(layers, device=segmentation.device)[:, None, None]


def present_layers(hard: Tensor, min_area: int | None = None) -> Tensor:
    """Layers whose region has the minimum area.

    Args:
        hard: hard regions, ``(B, T, H, W)`` bool.
        min_area: minimum area in pixels; ``smallest_area`` if not given.

    Returns:
        ``(B, T)`` bool.
    """
    least = smallest_area(*hard.shape[-2:]) if min_area is None else min_area
    return hard.sum(dim=(2, 3)) >= least


def background_layer(hard: Tensor, present: Tensor, background: Tensor | None = None) -> Tensor:
    """Find the background layer of each scene.

    Args:
        hard: hard regions, ``(B, T, H, W)`` bool.
        present: ``(B, T)`` bool.
        background: visible pixels of the true background, ``(B, H, W)`` bool; None if unknown.

    Returns:
        ``(B,)`` int64; ``UNMATCHED`` where no layer is present.
    """
    order = torch.arange(hard.shape[1], device=hard.device)
    last = torch.where(present, order, UNMATCHED).amax(dim=1)
    if background is None:
        return last
    overlap = (hard & background[:, None]).sum(dim=(2, 3)) * present  # (B, T)
    return torch.where(overlap.amax(dim=1) > 0, overlap.argmax(dim=1), last)


def pairwise_iou(pred: Tensor, true: Tensor) -> Tensor:
    """Intersection over union of every predicted mask with every true mask.

    Args:
        pred: ``(B, T, H, W)`` bool.
        true: ``(B, N, H, W)`` bool.

    Returns:
        ``(B, T, N)`` float64 in [0, 1]; 0 where both masks are empty.
    """
    p, q = pred.flatten(2).float(), true.flatten(2).float()  # exact below 2^24 pixels
    both = (p @ q.mT).double()
    union = p.sum(dim=2).double()[:, :, None] + q.sum(dim=2).double()[:, None] - both
    return both / union.clamp_min(1)


@dataclass(frozen=True)
class Matching:
    """Assignment of T layers to N true objects in B scenes, both front to back."""

    present: Tensor
    """Present layers, ``(B, T)`` bool."""
    background: Tensor
    """Index of the background layer, ``(B,)`` int64."""
    visible: Tensor
    """True objects with at least one visible pixel, ``(B, N)`` bool."""
    layer: Tensor
    """Layer of each true object, ``(B, N)`` int64; ``UNMATCHED`` if none."""
    iou: Tensor
    """Visible IoU of each true object with its layer, ``(B, N)`` float64; 0 without a layer."""

    @property
    def objects(self) -> Tensor:
        """Layers that are present and not the background, ``(B, T)`` bool."""
        order = torch.arange(self.present.shape[1], device=self.present.device)
        return self.present & (order != self.background[:, None])


def match(
    hard: Tensor, label: Tensor | None, region: Tensor, min_area: int | None = None
) -> Matching:
    """Match layers to true objects by visible IoU (Hungarian method).

    Args:
        hard: hard predicted regions, ``(B, T, H, W)`` bool.
        label: class of each true object, ``(B, N)`` int64; negative for empty slots. None if
            classes are unknown.
        region: true visible regions, ``(B, N, H, W)`` bool.
        min_area: minimum area of a present layer in pixels; ``smallest_area`` if not given.
    """
    visible = region.flatten(2).any(dim=2)
    if label is not None:
        visible &= label >= 0
    present = present_layers(hard, min_area)
    background = background_layer(hard, present, ~(region & visible[:, :, None, None]).any(dim=1))
    layer = torch.full_like(visible, UNMATCHED, dtype=torch.long)
    matching = Matching(present, background, visible, layer, torch.zeros_like(visible).double())
    iou = pairwise_iou(hard, region) * matching.objects[:, :, None] * visible[:, None]  # (B, T, N)
    for b, scene in enumerate(iou.numpy(force=True)):
        for i, n in zip(*linear_sum_assignment(scene, maximize=True), strict=True):
            if scene[i, n] > 0:
                layer[b, n], matching.iou[b, n] = int(i), float(scene[i, n])
    return matching


def visible_iou(matching: Matching) -> Tensor:
    """Mean IoU of visible regions over true objects.

    Returns:
        ``(B,)`` float64 in [0, 1]; objects without a layer count as 0; NaN without objects.
    """
    return _mean_over(matching.iou, matching.visible)


def amodal_iou(matching: Matching, shape: Tensor, mask: Tensor) -> Tensor:
    """Mean IoU of amodal masks, which include occluded parts, over true objects.

    Args:
        matching: assignment by visible regions.
        shape: predicted shape probabilities, ``(B, T, 1, H, W)``; thresholded at 0.5.
        mask: true amodal masks, ``(B, N, H, W)`` bool.

    Returns:
        ``(B,)`` float64 in [0, 1]; objects without a layer count as 0; NaN without objects.
    """
    iou = pairwise_iou(shape.squeeze(2) > 0.5, mask)
    found = matching.layer != UNMATCHED
    own = iou.gather(1, matching.layer.clamp_min(0)[:, None])[:, 0]  # (B, N)
    return _mean_over(own * found, matching.visible)


def found_share(matching: Matching) -> Tensor:
    """Share of true objects that have a layer, ``(B,)`` float64; NaN without objects."""
    return _mean_over((matching.layer != UNMATCHED).double(), matching.visible)


def count_right(matching: Matching) -> Tensor:
    """Object counting accuracy (OCA): 1 if there are as many object layers as visible objects.

    Returns:
        ``(B,)`` float64, 0 or 1.
    """
    return (matching.objects.sum(dim=1) == matching.visible.sum(dim=1)).double()


def spare_empty(matching: Matching) -> Tensor:
    """Share of spare layers that are empty.

    Spare layers are those in excess of the visible objects and the background.

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN without spare layers.
    """
    spare = matching.present.shape[1] - 1 - matching.visible.sum(dim=1)
    used = (matching.objects.sum(dim=1) - matching.visible.sum(dim=1)).clamp_min(0)
    share = 1 - used.double() / spare.clamp_min(1)
    return share.masked_fill(spare < 1, torch.nan)


def order_right(matching: Matching, mask: Tensor) -> Tensor:
    """Object ordering accuracy (OOA): share of overlapping object pairs in the right depth order.

    A pair overlaps if the amodal masks share a pixel. It counts as right if both objects have a
    layer and the layer of the nearer object is nearer.

    Args:
        matching: assignment by visible regions.
        mask: true amodal masks front to back, ``(B, N, H, W)`` bool.

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN without overlapping pairs.
    """
    m = (mask & matching.visible[:, :, None, None]).flatten(2).float()
    pairs = ((m @ m.mT) > 0).triu(diagonal=1)  # (B, N, N), the first index nearer
    front, back = matching.layer[:, :, None], matching.layer[:, None]
    right = (front != UNMATCHED) & (back != UNMATCHED) & (front < back)
    return _mean_over(right.double().flatten(1), pairs.flatten(1))


def _mean_over(value: Tensor, counted: Tensor) -> Tensor:
    return (value * counted).sum(dim=1) / counted.sum(dim=1)  # NaN (0 / 0) if nothing is counted
