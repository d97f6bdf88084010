r"""Agreement of two segmentations: adjusted Rand index and segmentation covering.

All of it follows from the contingency table n_pq, the number of pixels with predicted label p and
true label q. With row sums a_p, column sums b_q and N pixels, the pairs of pixels (ordered, a
pixel never with itself) that both segmentations join are TP = sum n_pq^2 - N; those that only the
prediction joins FP = sum a_p^2 - sum n_pq^2; only the truth FN = sum b_q^2 - sum n_pq^2; and TN
the rest. Then (Hubert and Arabie, 1985)

.. math:: ARI = \frac{2 (TP \cdot TN - FN \cdot FP)}{(TP+FN)(FN+TN) + (TP+FP)(FP+TN)}

The intersection over union of segments p and q is n_pq / (a_p + b_q - n_pq).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BACKGROUND = -1  # the true label of pixels that belong to no object


def true_segmentation(region: Tensor) -> Tensor:
    """Index of the object seen at each pixel.

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
        pred: predicted labels, ``(B, H, W)`` of any integers.
        true: true labels, ``(B, H, W)``; ``BACKGROUND`` marks the background.
        foreground: look only at pixels that truly belong to objects (ARI-FG).

    Returns:
        ``(B,)`` float64, at most 1. NaN where no pixel is looked at. Where the truth is a single
        segment, 1 if the prediction is one too and 0 if not, as in scikit-learn.
    """
    n = contingency(pred, true, true != BACKGROUND if foreground else None)
    total = n.sum(dim=(1, 2))
    joined = n.square().sum(dim=(1, 2))
    tp = joined - total
    fp = n.sum(dim=2).square().sum(dim=1) - joined
    fn = n.sum(dim=1).square().sum(dim=1) - joined
    tn = total.square() - total - tp - fp - fn
    index = 2 * (tp * tn - fn * fp) / ((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn))
    index = torch.where((fn == 0) & (fp == 0), 1.0, index)  # equal, even if both are one segment
    return torch.where(total > 0, index, torch.nan)


class Covering(NamedTuple):
    """Segmentation covering of each scene, ``(B,)`` float64 in [0, 1]; NaN without objects."""

    mean: Tensor
    """Every object counts the same (MSC)."""
    weighted: Tensor
    """Objects count by their visible area (SC)."""


def segmentation_covering(pred: Tensor, true: Tensor) -> Covering:
    """Largest IoU of each true object with any predicted segment (GENESIS, section 4).

    Args:
        pred: predicted labels, ``(B, H, W)`` of any integers.
        true: true labels, ``(B, H, W)``; ``BACKGROUND`` is not an object and not averaged over.
    """
    n = contingency(pred, true)
    union = n.sum(dim=2, keepdim=True) + n.sum(dim=1, keepdim=True) - n
    best = (n / union.clamp_min(1)).amax(dim=1)  # (B, Q)
    area = n.sum(dim=1) * (_ranks(true)[0] != BACKGROUND)
    there = (area > 0).double()
    return Covering(
        mean=(best * there).sum(dim=1) / there.sum(dim=1),
        weighted=(best * area).sum(dim=1) / area.sum(dim=1),
    )


def contingency(pred: Tensor, true: Tensor, looked_at: Tensor | None = None) -> Tensor:
    """Pixels with each predicted and true label.

    Args:
        pred: labels, ``(B, H, W)`` of any integers.
        true: labels, ``(B, H, W)`` of any integers.
        looked_at: pixels that count, ``(B, H, W)`` bool; all if not given.

    Returns:
        Counts, ``(B, P, Q)`` float64; labels ascend, and some may not occur.
    """
    (p_labels, p), (q_labels, q) = _ranks(pred), _ranks(true)
    b = torch.arange(len(pred), device=pred.device)[:, None, None]
    shape = (len(pred), len(p_labels), len(q_labels))
    cell = (b * shape[1] + p) * shape[2] + q
    cell = cell.flatten() if looked_at is None else cell[looked_at]
    return torch.bincount(cell, minlength=shape[0] * shape[1] * shape[2]).view(shape).double()


def _ranks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Candidate labels in ascending order, and the index of each pixel's label among them."""
    low, high = (int(end) for end in labels.aminmax())
    if high - low < 64:  # sorting a thousand scenes takes longer than all else together
        return torch.arange(low, high + 1, device=labels.device), labels - low
    return torch.unique(labels, return_inverse=True)
