"""Table 1's row "generate coherent scenes": samples of the prior, judged and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from econ_pyro.evaluation.efficientnet import NEEDED, EfficientNetLite0, is_installed
from econ_pyro.evaluation.evaluate import held_out
from econ_pyro.evaluation.kernel_distance import Features, kernel_distance
from econ_pyro.evaluation.sample_quality import BACKGROUND
from econ_pyro.evaluation.scene_judge import SceneJudge
from econ_pyro.evaluation.system_table import Row, Scores, Value, reference
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.scene_config import SceneConfig

COLUMNS = {
    "lawful": "lawful",
    "lawful_asked": "lawful, one of each class asked for",
    "whole": "whole objects only",
    "kid": "KID (EfficientNet-Lite0)",
}
"""Titles of the scores."""
_BATCH = 100


@dataclass(frozen=True)
class Gallery:
    """What samples are compared with."""

    scenes: SceneConfig
    """Distribution of the scenes."""
    judge: SceneJudge
    features: Features | None
    """None: the extra is not installed."""
    held_out: Tensor
    """Features of held-out scenes, ``(n, D)``; empty without the extra."""
    n: int
    """Number of samples."""


def open_gallery(
    scenes: SceneConfig, judge: SceneJudge, n: int, features: Features | None = None
) -> Gallery:
    """Prepare the comparison with n held-out scenes.

    Args:
        scenes: distribution of the scenes.
        judge: of their classes.
        n: number of samples.
        features: of images; EfficientNet-Lite0's, if it is installed, if not given.
    """
    if features is None and not is_installed():
        return Gallery(scenes, judge, None, torch.zeros(0, 0), n)
    features = features or EfficientNetLite0()
    return Gallery(scenes, judge, features, features(_rendered(scenes, range(n))), n)


def measure(model: SceneModel, gallery: Gallery, seed: int = 0) -> Scores:
    """Scores of samples of a model's prior; nothing of a model that is not generative.

    Args:
        model: the scene model.
        gallery: what the samples are compared with.
        seed: of the samples.
    """
    if not model.generative:
        return {}
    drawn = _in_batches(lambda n, i: model.sample(n, seed=seed + i).image, gallery.n)
    scores = dict(judged(drawn, gallery))
    if (asked := one_of_each(model, gallery, seed)) is not None:
        right = [gallery.judge.shows(x, gallery.judge.classes) for x in asked]
        scores["lawful_asked"] = sum(right) / len(right)
    return scores


def one_of_each(model: Any, gallery: Gallery, seed: int = 0) -> Tensor | None:
    """Scenes of a model with named experts, asked for one object of each class in any order.

    Returns:
        Images, ``(n, 3, H, W)``; None if the model has no expert of some class.
    """
    if not has_experts(model, gallery.judge.classes):
        return None
    orders = list(permutations(gallery.judge.classes))
    share = -(-gallery.n // len(orders))
    drawn = [
        model.sample(share, experts=(BACKGROUND, *order), seed=seed + i).image
        for i, order in enumerate(orders)
    ]
    return torch.cat(drawn)[: gallery.n].cpu()


def has_experts(model: SceneModel, classes: Sequence[str]) -> bool:
    """Whether a model has an expert of each class, by name, and one of the background."""
    return {*classes, BACKGROUND} <= set(model.names)


def judged(images: Tensor, gallery: Gallery) -> Scores:
    """Share of lawful images and of those that show whole objects only, and KID."""
    kid: Value = NEEDED
    if gallery.features is not None:
        kid = kernel_distance(gallery.features(images), gallery.held_out)
    seen = [gallery.judge.look(x) for x in images]
    right = sum(each.shows(gallery.judge.classes) for each in seen)
    return {
        "lawful": right / len(seen),
        "whole": sum(each.whole for each in seen) / len(seen),
        "kid": kid,
    }


def references(gallery: Gallery) -> list[Row]:
    """The best that can be expected, and what knows nothing of classes, or of scenes."""
    n, scenes = gallery.n, gallery.scenes
    others = _rendered(scenes, range(n, 2 * n))
    mixed = _rendered(replace(scenes, selection="random"), range(n, 2 * n))
    mean = others.mean(0, keepdim=True).expand_as(others)
    images = {
        "other held-out scenes (ceiling)": others,
        "rendered, classes at random": mixed,
        "mean image (floor)": mean,
    }
    return [reference(name, judged(x, gallery)) for name, x in images.items()]


def _rendered(scenes: SceneConfig, indices: range) -> Tensor:
    return held_out(scenes, indices.stop).images(torch.tensor(indices))


def _in_batches(sample: Callable[[int, int], Tensor], n: int) -> Tensor:
    """N images, so many at a time, each batch with a number of its own."""
    sizes = [min(_BATCH, n - start) for start in range(0, n, _BATCH)]
    return torch.cat([sample(size, i).cpu().clamp(0, 1) for i, size in enumerate(sizes)])
