"""Table 1's row "decompose and reconstruct": scores of decompositions of held-out scenes."""

from __future__ import annotations

import torch

from econ_pyro.evaluation.baselines import SEGMENTATIONS
from econ_pyro.evaluation.evaluate import held_out
from econ_pyro.evaluation.metrics import SceneMetrics, evaluate_regions
from econ_pyro.evaluation.system_table import MISSING, Row, reference
from econ_pyro.scene_config import SceneConfig

COLUMNS = {
    "ari": "ARI, all pixels",
    "ari_fg": "ARI-FG",
    "visible_iou": "visible IoU",
    "mse": "MSE",
    "amodal_iou": "amodal IoU",
    "ooa": "depth order",
    "minutes": "minutes",
    "steps": "steps",
}
"""Titles of the scores."""
REFERENCES = ("position only", "one-colour components")
"""Segmentations that learn nothing (:mod:`econ_pyro.evaluation.baselines`)."""


def scores_of(metrics: SceneMetrics) -> dict[str, float | None]:
    """The scores of the table; those that are not defined for a system are left out."""
    summary = metrics.summary()
    return {name: summary[name] for name in COLUMNS if name in summary}


def references(scenes: SceneConfig, n: int, slots: int) -> list[Row]:
    """Rows of segmentations that learn nothing.

    Args:
        scenes: distribution of the scenes.
        n: number of scenes.
        slots: number of layers.
    """
    truth, rows = held_out(scenes, n).scenes(torch.arange(n)), []
    for name in REFERENCES:
        regions = SEGMENTATIONS[name](truth.image, slots)
        scores = scores_of(evaluate_regions(truth.image, regions, truth))
        untrained = {"minutes": MISSING, "steps": MISSING}
        rows.append(reference(name, {**scores, **untrained}))
    return rows
