r"""Which predicted layer is which true object, and what follows: IoU, counting, depth order.

One assignment serves every score. Layers that are present and are not the background are matched
to true objects so that the sum of their visible IoU is largest (Hungarian method). Its rules:

- A layer is present if it is the largest region at ``smallest_area`` pixels or more.
- The background layer is the present layer that covers most of the true background; without a
  true background, the last present layer.
- A true object takes part if one pixel of it or more can be seen: what is hidden altogether
  cannot be found. A match must overlap by a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MIN_AREA = 0.008  # smallest layer as a fraction of the image: 8 pixels of 32x32
UNMATCHED = -1


def smallest_area(height: int, width: int) -> int:
    """Pixels that a layer must hold to be present: 8 of 32x32, at least 1."""
    return max(1, round(MIN_AREA * height * width))


def hard_regions(segmentation: Tensor, layers: int) -> Tensor:
    """One mask a layer.

    Args:
        segmentation: index of the layer seen at each pixel, ``(B, H, W)``.
        layers: number of layers T.

    Returns:
        ``(B, T, H, W)`` bool, disjoint.
    """
    return segmentation[:, None] == torch.arange(layers, device=segmentation.device)[:, None, None]


def present_layers(hard: Tensor, min_area: int | None = None) -> Tensor:
    """Layers that hold something.

    Args:
        hard: hard regions, ``(B, T, H, W)`` bool.
        min_area: pixels that make a layer present; ``smallest_area`` if not given.

    Returns:
        ``(B, T)`` bool.
    """
    least = smallest_area(*hard.shape[-2:]) if min_area is None else min_area
    return hard.sum(dim=(2, 3)) >= least


def background_layer(hard: Tensor, present: Tensor, background: Tensor | None = None) -> Tensor:
    """The layer that is the background of each scene.

    Args:
        hard: hard regions, ``(B, T, H, W)`` bool.
        present: ``(B, T)`` bool.
        background: where the true background is seen, ``(B, H, W)`` bool; None without truth.

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
    """Intersection over union of every mask with every other.

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
    """Which layer is which object; scenes B, layers T, true objects N, slots front to back."""

    present: Tensor
    """Layers that hold something, ``(B, T)`` bool."""
    background: Tensor
    """Index of the background layer, ``(B,)`` int64."""
    there: Tensor
    """True objects that can be seen, ``(B, N)`` bool."""
    layer: Tensor
    """Layer of each true object, ``(B, N)`` int64; ``UNMATCHED`` if it has none."""
    iou: Tensor
    """Visible IoU of each true object with its layer, ``(B, N)`` float64; 0 if it has none."""

    @property
    def objects(self) -> Tensor:
        """Layers that are objects: present and not the background, ``(B, T)`` bool."""
        order = torch.arange(self.present.shape[1], device=self.present.device)
        return self.present & (order != self.background[:, None])


def match(
    hard: Tensor, label: Tensor | None, region: Tensor, min_area: int | None = None
) -> Matching:
    """Match layers to true objects by visible IoU (Hungarian method).

    Args:
        hard: hard predicted regions, ``(B, T, H, W)`` bool.
        label: class of each true object, ``(B, N)`` int64; negative slots are empty. None if
            classes are not known.
        region: true visible regions, ``(B, N, H, W)`` bool.
        min_area: pixels that make a layer present; ``smallest_area`` if not given.
    """
    there = region.flatten(2).any(dim=2)
    if label is not None:
        there &= label >= 0
    present = present_layers(hard, min_area)
    background = background_layer(hard, present, ~(region & there[:, :, None, None]).any(dim=1))
    layer = torch.full_like(there, UNMATCHED, dtype=torch.long)
    matching = Matching(present, background, there, layer, torch.zeros_like(there).double())
    iou = pairwise_iou(hard, region) * matching.objects[:, :, None] * there[:, None]  # (B, T, N)
    for b, scene in enumerate(iou.numpy(force=True)):
        for i, n in zip(*linear_sum_assignment(scene, maximize=True), strict=True):
            if scene[i, n] > 0:
                layer[b, n], matching.iou[b, n] = int(i), float(scene[i, n])
    return matching


def visible_iou(matching: Matching) -> Tensor:
    """Mean IoU of visible regions over true objects; an object without a layer counts 0.

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN without objects.
    """
    return _mean_over(matching.iou, matching.there)


def amodal_iou(matching: Matching, shape: Tensor, mask: Tensor) -> Tensor:
    """Mean IoU of full masks, occluded parts included, over true objects.

    Args:
        matching: of visible regions.
        shape: predicted probability of the shapes, ``(B, T, 1, H, W)``; a mask is > 0.5.
        mask: true full masks, ``(B, N, H, W)`` bool.

    Returns:
        ``(B,)`` float64 in [0, 1]; an object without a layer counts 0; NaN without objects.
    """
    iou = pairwise_iou(shape.squeeze(2) > 0.5, mask)
    found = matching.layer != UNMATCHED
    own = iou.gather(1, matching.layer.clamp_min(0)[:, None])[:, 0]  # (B, N)
    return _mean_over(own * found, matching.there)


def found_share(matching: Matching) -> Tensor:
    """Share of true objects that have a layer, ``(B,)`` float64; NaN without objects."""
    return _mean_over((matching.layer != UNMATCHED).double(), matching.there)


def count_right(matching: Matching) -> Tensor:
    """Whether there are as many object layers as visible objects (OCA), ``(B,)`` of 0 and 1."""
    return (matching.objects.sum(dim=1) == matching.there.sum(dim=1)).double()


def spare_empty(matching: Matching) -> Tensor:
    """Share of the layers beyond the visible objects and a background that hold nothing.

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN where there are no more layers than that.
    """
    spare = matching.present.shape[1] - 1 - matching.there.sum(dim=1)
    used = (matching.objects.sum(dim=1) - matching.there.sum(dim=1)).clamp_min(0)
    share = 1 - used.double() / spare.clamp_min(1)
    return share.masked_fill(spare < 1, torch.nan)


def order_right(matching: Matching, mask: Tensor) -> Tensor:
    """Share of overlapping pairs of true objects whose depth order is right (OOA).

    A pair overlaps if the full masks share a pixel. It is right if both objects have a layer and
    the nearer object has the nearer one.

    Args:
        matching: of visible regions.
        mask: true full masks front to back, ``(B, N, H, W)`` bool.

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN in a scene without such pairs.
    """
    m = (mask & matching.there[:, :, None, None]).flatten(2).float()
    pairs = ((m @ m.mT) > 0).triu(diagonal=1)  # (B, N, N), the first index nearer
    front, back = matching.layer[:, :, None], matching.layer[:, None]
    right = (front != UNMATCHED) & (back != UNMATCHED) & (front < back)
    return _mean_over(right.double().flatten(1), pairs.flatten(1))


def _mean_over(value: Tensor, counted: Tensor) -> Tensor:
    return (value * counted).sum(dim=1) / counted.sum(dim=1)  # 0 / 0 is the NaN that is promised
