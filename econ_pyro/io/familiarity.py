"""Whether images are like those that a model was trained on, by how well it explains them.

The measure is the loss of a decomposition, :math:`L_x + L_z + L_r` of all layers in nats, per
pixel. It is compared with the mean over held-out scenes, which ``evaluation.json`` holds beside
the weights. A model explains any image somehow: of a photograph it may take one layer, which
fits nowhere, and which costs a hundred times as much as a scene of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError
from econ_pyro.files import storage
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.io.pretrained import EVALUATION

FACTOR = 10.0
"""Images that cost more than this many times the mean of held-out scenes are called unlike them.
Scenes of more objects, or of several of one class, cost two to ten times as much."""
_HELD_OUT = "held-out"


def validation_nats(folder: Path) -> float | None:
    """Mean loss of held-out scenes, in nats per image.

    Args:
        folder: of a run or of published weights.

    Returns:
        The mean; None if the folder has no such figures, as weights of earlier versions.
    """
    try:
        stored = storage.read_json(folder / EVALUATION)
    except EconError:
        return None
    for report in _reports(stored):
        if (nats := _nats(report)) is not None:
            return nats
    return None


def nats_per_pixel(d: Decomposition) -> list[float]:
    """Loss of each image in nats per pixel: L_x, L_z and L_r of all layers."""
    pixels = d.image.shape[-2] * d.image.shape[-1]
    total = sum(term.double().sum(1) for term in d.terms)
    return (total / pixels).tolist()  # type: ignore[union-attr]


def warnings_of(d: Decomposition, usual: float | None) -> list[str]:
    """A warning for each image that is unlike the scenes of training; empty for the others.

    Args:
        d: decomposition of B images.
        usual: loss of held-out scenes in nats per image, of :func:`validation_nats`.

    Returns:
        B texts; all empty if ``usual`` is None.
    """
    pixels = d.image.shape[-2] * d.image.shape[-1]
    if usual is None:
        return [""] * len(d)
    own = usual / pixels
    return [
        ""
        if nats <= FACTOR * own  # False for NaN
        else f"unlike what the model has learnt: {nats:.3g} nats per pixel, {own:.2g} for "
        "scenes as in training; the layers may mean nothing"
        for nats in nats_per_pixel(d)
    ]


def _reports(stored: dict[str, Any]) -> Iterator[Any]:
    """Reports that may be of held-out scenes: by name, as training writes one, or the first."""
    yield stored.get(_HELD_OUT)
    yield stored
    yield next(iter(stored.values()), None)


def _nats(report: Any) -> float | None:
    metrics = report.get("metrics") if isinstance(report, dict) else None
    if not isinstance(metrics, dict):
        return None
    terms = [v for v in map(metrics.get, "xzr") if isinstance(v, int | float)]
    total = math.fsum(terms) if len(terms) == 3 else 0.0
    return total if 0 < total < math.inf else None
