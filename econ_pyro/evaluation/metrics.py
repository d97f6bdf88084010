r"""Scores of decompositions, per scene and averaged.

Scores of segmentations are in :mod:`econ_pyro.evaluation.segmentation`; those of objects, amodal
masks, counts and depth order in :mod:`econ_pyro.evaluation.matching`; those of classes in
:mod:`econ_pyro.evaluation.specialisation`. Scores whose ground truth is missing are left out:
``amodal_iou`` and ``ooa`` need amodal masks, scores of classes need labels.

======================  ==========================================================  ==========
score                   meaning                                                     NaN if
======================  ==========================================================  ==========
mse                     squared error per channel, images in [0, 1]                 never
x, z, r                 terms of Eqs. 10-12, summed over layers, nats               never
layers                  number of present layers                                    never
ari, ari_fg             adjusted Rand index of all pixels, of pixels of objects     no object
msc, sc                 segmentation covering of objects, plain and by area         no object
visible_iou             IoU of visible regions, 0 for unmatched objects             no object
amodal_iou              IoU of amodal masks, same assignment                        no object
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

from torch import Tensor

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
    """Share of present layers that each expert won, ``(K,)``."""
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
    usage = specialisation.expert_usage(d.k, present, d.competition_losses.shape[2])
    scores = {
        "mse": mse(d.image, d.reconstruction),
        **{name: term.double().sum(dim=1) for name, term in zip("xzr", d.terms, strict=True)},
        "layers": present.sum(dim=1).double(),
    }
    if scenes is None:
        return SceneMetrics(scores, usage)
    region = scenes.region.cpu()
    label, mask = (None if a is None else a.cpu() for a in (scenes.label, scenes.mask))
    _check(d, label, region, class_names)
    true = segmentation.true_segmentation(region)
    covering = segmentation.segmentation_covering(segments, true)
    found = matching.match(hard, label, region, min_area)
    scores |= {
        "ari": segmentation.ari(segments, true),
        "ari_fg": segmentation.ari(segments, true, foreground=True),
        "msc": covering.mean,
        "sc": covering.weighted,
        "visible_iou": matching.visible_iou(found),
        "found": matching.found_share(found),
        "oca": matching.count_right(found),
        "spare": matching.spare_empty(found),
    }
    if mask is not None:
        scores["amodal_iou"] = matching.amodal_iou(found, d.shape, mask)
        scores["ooa"] = matching.order_right(found, mask)
    if label is None:
        return SceneMetrics(scores, usage)
    seen = (true == segmentation.BACKGROUND).flatten(1).any(dim=1)
    confusion = specialisation.class_confusion(
        found, d.k, label, seen, len(class_names), d.competition_losses.shape[2]
    )
    return SceneMetrics(scores, usage, tuple(class_names), confusion)


def _check(
    d: Decomposition, label: Tensor | None, region: Tensor, class_names: Sequence[str]
) -> None:
    slots = region.shape[1] if label is None else label.shape[1]
    want = (len(d), slots, *d.image.shape[2:])
    if region.shape != want:
        raise EconError(
            f"true regions {want} for {len(d)} decomposed images",
            str(tuple(region.shape)),
            "evaluate a decomposition with the ground truth of the same scenes",
        )
    if label is not None and label.numel() and int(label.max()) >= len(class_names):
        raise EconError(
            f"labels below {len(class_names)}, the number of class names",
            str(int(label.max())),
            "give class_names for every label of the scenes",
        )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
