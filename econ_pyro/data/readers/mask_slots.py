"""Slots of objects: compact numbering, depth order, and batches of different width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class MaskTensors(NamedTuple):
    """Ground truth of a batch, with the shapes of :class:`~econ_pyro.data.ground_truth.Truth`."""

    region: Tensor
    mask: Tensor | None
    label: Tensor | None


def depth_order(region: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Slots of a scene from front to back.

    Object i occludes object j if i is visible inside the mask of j. Slots without occlusions keep
    their order; contradictory occlusions are resolved greedily.

    Args:
        region: visible regions, ``(N, H, W)`` bool.
        mask: amodal masks, ``(N, H, W)`` bool.

    Returns:
        ``(N,)`` int64.
    """
    n = len(region)
    visible, whole = (a.reshape(n, -1).astype(np.float32) for a in (region, mask))
    occludes = (visible @ whole.T > 0) & ~np.eye(n, dtype=bool)
    order, remaining = [], list(range(n))
    while remaining:
        front = min(remaining, key=lambda i: int(occludes[remaining, i].sum()))
        order.append(front)
        remaining.remove(front)
    return np.array(order, np.int64)


def number_objects(indices: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the objects of each image from 1.

    Args:
        indices: index maps, ``(B, H, W)`` int64.
        first: first object index of each image, ``(B,)``; lower indices are background.

    Returns:
        Index maps with objects 1 to N and background 0, ``(B, H, W)`` int32, and the original
        indices of the slots, ``(B, N)`` int64, -1 for an empty slot.
    """
    numbered = np.zeros(indices.shape, np.int32)
    originals = []
    for b, (image, low) in enumerate(zip(indices, first, strict=True)):
        original = np.unique(image[image >= low])
        numbered[b] = np.where(image >= low, np.searchsorted(original, image) + 1, 0)
        originals.append(original)
    columns = np.full((len(originals), max(map(len, originals), default=0)), -1, np.int64)
    for b, original in enumerate(originals):
        columns[b, : len(original)] = original
    return numbered, columns


def reorder(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Reorder slots: values ``(B, N, ...)`` by slot indices ``(B, N)``."""
    return np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), 1)


def concatenate(parts: Sequence[MaskTensors]) -> MaskTensors:
    """Concatenate parts of a batch, padded to the largest number of slots."""
    if len(parts) == 1:
        return parts[0]
    slots = max(part.region.shape[1] for part in parts)

    def join(field: str, empty: int) -> Tensor | None:
        if getattr(parts[0], field) is None:
            return None
        tensors = [getattr(part, field) for part in parts]
        return torch.cat([
            torch.cat([t, t.new_full((len(t), slots - t.shape[1], *t.shape[2:]), empty)], 1)
            for t in tensors
        ])  # fmt: skip

    region = join("region", 0)
    assert region is not None
    return MaskTensors(region, join("mask", 0), join("label", -1))
