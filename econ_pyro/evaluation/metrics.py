r"""Scores of decompositions, per scene and averaged.

Scores of segmentations are in :mod:`econ_pyro.evaluation.segmentation`; those of objects, amodal
masks, counts and depth order in :mod:`econ_pyro.evaluation.matching`; those of classes in
:mod:`econ_pyro.evaluation.specialisation`. Scores whose ground truth is missing are left out:
``amodal_iou``, ``completed_iou`` and ``ooa`` need amodal masks, scores of classes need labels and
experts.

======================  ==========================================================  ==========
score                   meaning                                                     NaN if
======================  ==========================================================  ==========
mse                     squared error per channel, images in [0, 1]                 never
x, z, r                 terms of Eqs. 10-12, summed over layers, nats               never
layers                  number of present layers                                    never
ari, ari_fg             adjusted Rand index of all pixels, of pixels of objects     no object
msc, sc                 segmentation covering of objects, plain and by area         no object
visible_iou             IoU of visible regions, 0 for unmatched objects             no object
amodal_iou              IoU of amodal masks, which are the shapes as drawn          no object
completed_iou           the same of masks as seen, and as drawn where hidden        no object
found                   share of objects with a layer                               no object
oca                     1 if the number of objects is right                         never
spare                   share of spare layers that are empty                        none spare
ooa                     share of overlapping pairs in the right depth order         no pair
======================  ==========================================================  ==========

(``ari`` is not NaN in scenes without objects, but 1 or 0.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from econ_pyro.core.compositing import compose
from econ_pyro.data.ground_truth import Truth
from econ_pyro.errors import EconError
from econ_pyro.evaluation import matching, segmentation, specialisation
from econ_pyro.infer.decomposition import Decomposition


@dataclass(frozen=True)
class SceneMetrics:
    """Scores of B scenes."""

    scores: dict[str, Tensor]
    """Each score per scene, ``(B,)`` float64; NaN where it is undefined."""
    usage: Tensor
    """Share of present layers that each expert won, ``(K,)``; K = 0 without experts."""
    class_names: tuple[str, ...] = ()
    """Classes of object, without the background."""
    confusion: Tensor | None = field(default=None)
    """Number of wins by true class, the background last, and expert, ``(C + 1, K)``; None without
    labels."""
    given_names: tuple[str, ...] = ()
    """Fixed names of the first experts; empty names are not fixed."""

    @property
    def expert_names(self) -> list[str]:
        """Names of experts by the class that each wins most; numbers without labels."""
        names = [f"expert-{k}" for k in range(len(self.usage))]
        if self.confusion is not None:
            names = specialisation.names_by_majority(self.confusion, self.class_names)
        return specialisation.distinct_names(names, self.given_names)

    def summary(self) -> dict[str, float | None]:
        """Mean scores in one dictionary, as values for JSON.

        ``<score>`` is the mean over the ``<score>_n`` scenes in which the score is defined, None
        if there are none. ``usage_<k>`` is the share of expert k. ``class_accuracy`` and ``nmi``
        are computed over the ``class_n`` matched objects; with the suffix ``_with_background``,
        matched backgrounds count as a further class, which raises the scores of experts that
        are at chance on objects.
        """
        row: dict[str, float | None] = {"scenes": len(self.scores["mse"])}
        for name, score in self.scores.items():
            counted = score[~score.isnan()]
            row[name] = float(counted.mean()) if len(counted) else None
            row[f"{name}_n"] = len(counted)
        if self.confusion is not None:
            objects = self.confusion[:-1]
            for suffix, table in (("", objects), ("_with_background", self.confusion)):
                accuracy = specialisation.class_accuracy(table)
                nmi = specialisation.normalised_mutual_information(table)
                row[f"class_accuracy{suffix}"] = _or_none(accuracy)
                row[f"nmi{suffix}"] = _or_none(nmi)
                row[f"class_n{suffix}"] = int(table.sum())
        row.update({f"usage_{k}": share for k, share in enumerate(self.usage.tolist())})
        return row


def mse(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared error over pixels and channels.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1].
        reconstruction: ``(B, 3, H, W)``.

    Returns:
        ``(B,)`` float64.
    """
    return (image.double() - reconstruction.double()).square().mean(dim=(1, 2, 3))


def evaluate_scenes(
    decomposition: Decomposition,
    scenes: Truth | None = None,
    class_names: Sequence[str] = (),
    min_area: int | None = None,
) -> SceneMetrics:
    """Compute all scores that the ground truth allows.

    Args:
        decomposition: decomposition of B images.
        scenes: ground truth of the same images; None if there is none.
        class_names: classes of object, in the order of their labels.
        min_area: minimum area of a present layer in pixels; 0.8% of the image if not given.

    Raises:
        EconError: the ground truth does not match the images or the class names.
    """
    d = decomposition.cpu()
    segments = d.segmentation
    hard = matching.hard_regions(segments, d.k.shape[1])
    present = matching.present_layers(hard, min_area)
    experts = d.experts
    usage = specialisation.expert_usage(d.k, present, experts) if experts else torch.zeros(0)
    scores = {
        "mse": mse(d.image, d.reconstruction),
        **{name: term.double().sum(dim=1) for name, term in zip("xzr", d.terms, strict=True)},
        "layers": present.sum(dim=1).double(),
    }
    if scenes is None:
        return SceneMetrics(scores, usage)
    _check(d.image, scenes)
    found = _match(hard, scenes, min_area)
    scores |= _scores_of_regions(segments, d.shape, found, scenes)
    if scenes.mask is not None:
        scores["ooa"] = matching.order_right(found, scenes.mask.cpu())
        scores["completed_iou"] = matching.amodal_iou(found, d.completed, scenes.mask.cpu())
    if scenes.label is None or not experts:
        return SceneMetrics(scores, usage)
    label = scenes.label.cpu()
    _check_labels(label, class_names)
    seen = (~scenes.region.cpu().any(dim=1)).flatten(1).any(dim=1)
    confusion = specialisation.class_confusion(found, d.k, label, seen, len(class_names), experts)
    return SceneMetrics(scores, usage, tuple(class_names), confusion)


def evaluate_regions(
    image: Tensor, region: Tensor, scenes: Truth | None = None, min_area: int | None = None
) -> SceneMetrics:
    """Compute the scores of a segmentation without a model.

    The colour of a region is the mean of its pixels, and its shape is the visible region itself.
    Terms of the ELBO, depth order and scores of experts are left out.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1].
        region: regions in any order, ``(B, T, 1, H, W)`` in [0, 1]; sum to 1 over T.
        scenes: ground truth of the same images; None if there is none.
        min_area: minimum area of a present layer in pixels; 0.8% of the image if not given.

    Raises:
        EconError: the ground truth does not match the images.
    """
    image, region = image.detach().cpu(), region.detach().cpu()
    segments = region.squeeze(2).argmax(dim=1)
    hard = matching.hard_regions(segments, region.shape[1])
    present = matching.present_layers(hard, min_area)
    colour = (region * image[:, None]).sum(dim=(3, 4), keepdim=True)  # (B, T, 3, 1, 1)
    colour = colour / region.sum(dim=(3, 4), keepdim=True).clamp_min(torch.finfo(region.dtype).eps)
    scores = {
        "mse": mse(image, compose(region, colour)),
        "layers": present.sum(dim=1).double(),
    }
    if scenes is not None:
        _check(image, scenes)
        found = _match(hard, scenes, min_area)
        scores |= _scores_of_regions(segments, region, found, scenes)
    return SceneMetrics(scores, usage=torch.zeros(0))


def _match(hard: Tensor, scenes: Truth, min_area: int | None) -> matching.Matching:
    label = None if scenes.label is None else scenes.label.cpu()
    return matching.match(hard, label, scenes.region.cpu(), min_area)


def _scores_of_regions(
    segments: Tensor, shape: Tensor, found: matching.Matching, scenes: Truth
) -> dict[str, Tensor]:
    """Scores that need neither experts nor a depth order, each ``(B,)``."""
    true = segmentation.true_segmentation(scenes.region.cpu())
    covering = segmentation.segmentation_covering(segments, true)
    scores = {
        "ari": segmentation.ari(segments, true),
        "ari_fg": segmentation.ari(segments, true, foreground=True),
        "msc": covering.mean,
        "sc": covering.weighted,
        "visible_iou": matching.visible_iou(found),
        "found": matching.found_share(found),
        "oca": matching.count_right(found),
        "spare": matching.spare_empty(found),
    }
    if scenes.mask is not None:
        scores["amodal_iou"] = matching.amodal_iou(found, shape, scenes.mask.cpu())
    return scores


def _check(image: Tensor, scenes: Truth) -> None:
    label, region = scenes.label, scenes.region
    slots = region.shape[1] if label is None else label.shape[1]
    want = (len(image), slots, *image.shape[2:])
    if region.shape != want:
        raise EconError(
            f"true regions {want} for {len(image)} decomposed images",
            str(tuple(region.shape)),
            "evaluate a decomposition with the ground truth of the same scenes",
        )


def _check_labels(label: Tensor, class_names: Sequence[str]) -> None:
    if label.numel() and int(label.max()) >= len(class_names):
        raise EconError(
            f"labels below {len(class_names)}, the number of class names",
            str(int(label.max())),
            "give class_names for every label of the scenes",
        )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
