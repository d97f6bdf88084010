"""Evaluation of scene models on held-out and out-of-distribution scenes; names of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from econ_pyro.data.base import Source
from econ_pyro.data.corrupted import CorruptedSource, parse_corruptions
from econ_pyro.data.ground_truth import Truth
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.evaluation.baselines import SEGMENTATIONS, untrained
from econ_pyro.evaluation.metrics import SceneMetrics, evaluate_regions, evaluate_scenes
from econ_pyro.files import storage
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.naming import clean_name
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training import checkpoint

TEST_SEED = 1_000_003  # seed of held-out scenes; training seeds are small numbers
CORRUPTIONS = (
    "noise=0.05", "noise=0.1", "jpeg=90", "jpeg=50", "texture=0.25", "outline=1", "blur=1",
    "contrast=0.25",
)  # fmt: skip
"""Corruptions by which models are compared, each alone."""
HEADLINE = {
    "mse": "MSE",
    "ari": "ARI",
    "ari_fg": "ARI-FG",
    "msc": "mean segmentation covering",
    "visible_iou": "visible mean IoU",
    "amodal_iou": "amodal mean IoU",
    "completed_iou": "  completed where hidden",
    "oca": "counting accuracy (OCA)",
    "ooa": "depth-order accuracy (OOA)",
    "spare": "spare layers that are empty",
    "class_accuracy": "class accuracy of objects",
    "nmi": "class NMI of objects",
    "class_accuracy_with_background": "  with background",
    "x": "L_x, nats",
    "z": "L_z, nats",
    "r": "L_r, nats",
    "layers": "layers present",
}


def evaluate(
    model: SceneModel,
    source: Source,
    slots: int | None = None,
    gt_masks: bool = False,
    refine: bool = True,
    min_area: int | None = None,
) -> SceneMetrics:
    """Decompose every image of a source and compute all scores that its ground truth allows.

    Args:
        model: the scene model.
        source: images, with or without ground truth.
        slots: number of layers; as in training if not given.
        gt_masks: use true regions in place of attention, as in the paper's Fig. 5.
        refine: refine the layers that the competition found, where the model's configuration says
            so.
        min_area: minimum area of a present layer in pixels; 0.8% of the image if not given.

    Raises:
        EconError: ``gt_masks`` is set, but the source has no ground truth.
    """
    images, scenes = _read(source)
    evidence = None
    if gt_masks:
        if scenes is None:
            raise EconError("scenes with true regions", "images", "leave out --gt-masks")
        evidence = scenes.layers(slots or model.config.model.num_slots)
    options = {} if refine else {"refine": False}  # models without refinement lack this option
    d: Decomposition = model.decompose(images, slots, evidence=evidence, **options)
    found = evaluate_scenes(d, scenes, source.classes, min_area)
    scores = {name: s for name, s in found.scores.items() if name not in model.undefined}
    return replace(found, scores=scores, given_names=model.config.names)


def evaluate_each(
    model: SceneModel,
    sources: Mapping[str, tuple[Source, int | None]],
    gt_masks: bool = False,
    refine: bool = True,
    baselines: bool = False,
    min_area: int | None = None,
) -> dict[str, SceneMetrics]:
    """:func:`evaluate` on several sets of scenes.

    Args:
        model: the scene model.
        sources: sets of scenes by name, each with its number of layers; None: as in training.
        gt_masks: as for :func:`evaluate`.
        refine: as for :func:`evaluate`.
        baselines: also evaluate the untrained model and each of
            :data:`~econ_pyro.evaluation.baselines.SEGMENTATIONS` on the same scenes.
        min_area: as for :func:`evaluate`.

    Returns:
        Scores by the name of the scenes; those of baselines by ``<scenes>, <baseline>``.

    Raises:
        EconError: ``gt_masks`` is set, but a source has no ground truth.
    """
    models = {"": model} | ({", untrained": untrained(model)} if baselines else {})
    reports = {}
    for name, (source, slots) in sources.items():
        for suffix, each in models.items():
            reports[name + suffix] = evaluate(each, source, slots, gt_masks, refine, min_area)
        if baselines:
            images, scenes = _read(source)
            for baseline, segment in SEGMENTATIONS.items():
                regions = segment(images, slots or model.config.model.num_slots)
                reports[f"{name}, {baseline}"] = evaluate_regions(
                    images, regions, scenes, min_area
                )
    return reports


def _read(source: Source) -> tuple[Tensor, Truth | None]:
    indices = torch.arange(len(source))
    scenes = source.scenes(indices)
    return source.images(indices) if scenes is None else scenes.image, scenes


def ood_sources(model: SceneModel, n: int) -> dict[str, tuple[Source, int | None]]:
    """Out-of-distribution scenes (Figs. 4 and 8), each with the number of layers to infer.

    More objects, several objects of one class, colours similar to the background, spare layers.
    """
    scenes, slots = model.config.scenes, model.config.model.num_slots
    kinds = {
        "4 objects": (replace(scenes, objects=4, min_objects=None), 5),
        "5 objects": (replace(scenes, objects=5, min_objects=None), 6),
        "3 of one class": (replace(scenes, objects=3, min_objects=None, selection="same"), 4),
        "near background": (replace(scenes, near_background=64), slots),
        "2 spare layers": (scenes, slots + 2),
    }
    return {name: (held_out(config, n), t) for name, (config, t) in kinds.items()}


def held_out(scenes: SceneConfig, n: int) -> GeneratedScenes:
    """N scenes that are in no training, the same for all models."""
    return GeneratedScenes(scenes, TEST_SEED, n, "valid")


def corrupted_sources(source: Source) -> dict[str, Source]:
    """The scenes of a source, once with each of :data:`CORRUPTIONS`."""
    return {text: CorruptedSource(source, parse_corruptions([text])) for text in CORRUPTIONS}


def as_json(metrics: SceneMetrics) -> dict[str, Any]:
    """All scores, as values for JSON."""
    out: dict[str, Any] = {"metrics": metrics.summary()}
    if metrics.confusion is not None:
        out["classes"] = [*metrics.class_names, "background"]
        out["confusion"] = metrics.confusion.tolist()
    return out


def names_of(metrics: SceneMetrics, current: list[str]) -> list[str]:
    """Names of experts by majority class; the current ones if classes are unknown."""
    return current if metrics.confusion is None else metrics.expert_names


def write_names(run: Path, metrics: SceneMetrics, current: list[str]) -> list[str]:
    """Name the experts of a run by majority class and write the names to ``experts.json``.

    Returns:
        The names; the current ones, which are not written, if classes are unknown.
    """
    if metrics.confusion is None:
        return current
    names = metrics.expert_names
    storage.write_json(
        run / checkpoint.NAMES,
        {"names": names, "usage": metrics.usage.tolist(), **as_json(metrics)},
        checksum=True,
    )
    return names


def format_report(metrics: SceneMetrics, title: str) -> str:
    """Format scores, expert usage and the confusion matrix for a terminal."""
    summary = metrics.summary()
    lines = [title]
    for key, label in HEADLINE.items():
        if key in summary:
            lines.append(f"  {label:<28}{_number(summary[key])}")
    names = metrics.expert_names
    usage = ", ".join(f"{a} {u:.0%}" for a, u in zip(names, metrics.usage.tolist(), strict=True))
    if usage:
        lines.append(f"  {'experts (share of layers)':<28}{usage}")
    if metrics.confusion is not None:
        lines.append("  layers won, class by expert")
        header = ["", *(f"expert {k}" for k in range(len(names)))]
        lines.append("  " + "".join(f"{h:>14}" for h in header))
        for label, row in zip(
            [*metrics.class_names, "background"], metrics.confusion.tolist(), strict=True
        ):
            lines.append("  " + f"{clean_name(label):>14}" + "".join(f"{int(v):>14}" for v in row))
    return "\n".join(lines)


def format_table(reports: Mapping[str, SceneMetrics]) -> str:
    """Format the main scores of several sets of scenes for a terminal, one line per set."""
    keys = ["ari_fg", "visible_iou", "amodal_iou", "oca", "ooa", "class_accuracy", "mse", "spare"]
    width = max(18, *(len(name) + 1 for name in reports))
    lines = [" " * width + "".join(f"{k:>15}" for k in keys)]
    for name, metrics in reports.items():
        summary = metrics.summary()
        lines.append(f"{name:<{width}}" + "".join(f"{_number(summary.get(k)):>15}" for k in keys))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.6f}"
