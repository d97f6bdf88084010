r"""Scores of segmentations: adjusted Rand index and segmentation covering.

Both follow from the contingency table n_pq, the number of pixels with predicted label p and true
label q. With row sums a_p, column sums b_q and N pixels, the ordered pairs of distinct pixels that
both segmentations join number TP = sum n_pq^2 - N; those that only the prediction joins,
FP = sum a_p^2 - sum n_pq^2; those that only the truth joins, FN = sum b_q^2 - sum n_pq^2; the
others, TN. Then (Hubert and Arabie, 1985)

.. math:: ARI = \frac{2 (TP \cdot TN - FN \cdot FP)}{(TP+FN)(FN+TN) + (TP+FP)(FP+TN)}

The intersection over union of segments p and q is n_pq / (a_p + b_q - n_pq).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BACKGROUND = -1  # true label of pixels without an object


def true_segmentation(region: Tensor) -> Tensor:
    """Index of the visible object at each pixel.

    Args:
        region: visible regions, ``(B, N, H, W)`` bool, disjoint.

    Returns:
        ``(B, H, W)`` int64; ``BACKGROUND`` where there is no object.
    """
    slots = torch.arange(1, region.shape[1] + 1, device=region.device)
    return (region * slots[:, None, None]).sum(dim=1) + BACKGROUND


def ari(pred: Tensor, true: Tensor, foreground: bool = False) -> Tensor:
    """Adjusted Rand index of each scene (Hubert and Arabie, 1985).

    Args:
        pred: predicted labels, ``(B, H, W)``, any integers.
        true: true labels, ``(B, H, W)``; ``BACKGROUND`` marks the background.
        foreground: restrict to pixels of true objects (ARI-FG).

    Returns:
        ``(B,)`` float64, at most 1; NaN for an empty foreground. If the truth is a single segment,
        1 if the prediction is a single segment too, else 0, as in scikit-learn.
    """
    n = contingency(pred, true, true != BACKGROUND if foreground else None)
    total = n.sum(dim=(1, 2))
    joined = n.square().sum(dim=(1, 2))
    tp = joined - total
    fp = n.sum(dim=2).square().sum(dim=1) - joined
    fn = n.sum(dim=1).square().sum(dim=1) - joined
    tn = total.square() - total - tp - fp - fn
    index = 2 * (tp * tn - fn * fp) / ((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn))
    index = torch.where((fn == 0) & (fp == 0), 1.0, index)  # equal; 0 / 0 for single segments
    return torch.where(total > 0, index, torch.nan)


class Covering(NamedTuple):
    """Segmentation covering of each scene, ``(B,)`` float64 in [0, 1]; NaN without objects."""

    mean: Tensor
    """All objects have the same weight (MSC)."""
    weighted: Tensor
    """Objects are weighted by visible area (SC)."""


def segmentation_covering(pred: Tensor, true: Tensor) -> Covering:
    """Mean over true objects of the largest IoU with any predicted segment (GENESIS, section 4).

    Args:
        pred: predicted labels, ``(B, H, W)``, any integers.
        true: true labels, ``(B, H, W)``; ``BACKGROUND`` is not an object.
    """
    n = contingency(pred, true)
    union = n.sum(dim=2, keepdim=True) + n.sum(dim=1, keepdim=True) - n
    best = (n / union.clamp_min(1)).amax(dim=1)  # (B, Q)
    area = n.sum(dim=1) * (_ranks(true)[0] != BACKGROUND)
    visible = (area > 0).double()
    return Covering(
        mean=(best * visible).sum(dim=1) / visible.sum(dim=1),
        weighted=(best * area).sum(dim=1) / area.sum(dim=1),
    )


def contingency(pred: Tensor, true: Tensor, where: Tensor | None = None) -> Tensor:
    """Count pixels by predicted and true label.

    Args:
        pred: predicted labels, ``(B, H, W)``, any integers.
        true: true labels, ``(B, H, W)``, any integers.
        where: pixels to count, ``(B, H, W)`` bool; all if not given.

    Returns:
        Counts, ``(B, P, Q)`` float64, in ascending order of labels; some rows and columns may be
        empty.
    """
    (p_labels, p), (q_labels, q) = _ranks(pred), _ranks(true)
    b = torch.arange(len(pred), device=pred.device)[:, None, None]
    shape = (len(pred), len(p_labels), len(q_labels))
    cell = (b * shape[1] + p) * shape[2] + q
    cell = cell.flatten() if where is None else cell[where]
    return torch.bincount(cell, minlength=shape[0] * shape[1] * shape[2]).view(shape).double()


def _ranks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Candidate labels in ascending order, and the index of each pixel's label among them."""
    low, high = (int(end) for end in labels.aminmax())
    if high - low < 64:  # torch.unique sorts, which would take most of the time
        return torch.arange(low, high + 1, device=labels.device), labels - low
    return torch.unique(labels, return_inverse=True)
