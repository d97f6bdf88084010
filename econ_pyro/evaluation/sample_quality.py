"""Quality of samples, judged by a small classifier of shapes.

The classifier is trained on masks of rendered shapes. It distinguishes the classes of object, and
rejects masks that show no object: empty and full masks, objects with a part cut off, two objects
in one mask, and smooth blobs. Augmentation makes it invariant to sizes that are up to 10% off, to
shifts by fractions of a pixel, and to the rounding of half-covered pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.core.compositing import regions_of_shapes
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.evaluation import matching
from econ_pyro.scene_config import SceneConfig

NO_OBJECT, BACKGROUND = "no object", "background"
_SCENES, _STEPS, _BATCH, _RATE = 20_000, 700, 128, 3e-3
_THRESHOLD_RANGE = 0.3  # width of the range of thresholds of coverage, centred at 0.5


class Sampler(Protocol):
    """Interface of the models that are judged, such as :class:`econ_pyro.econ.Econ`."""

    names: list[str]
    """Names of the experts."""

    def sample_experts(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Appearances and shapes of each expert, ``(K, n, ...)``."""

    def sample(
        self, n: int = 1, *, experts: Sequence[int] | None = None, seed: int | None = None
    ) -> Any:
        """Scenes of the given experts (indices, back to front)."""


@dataclass(frozen=True)
class SampleScores:
    """Quality of samples of the prior."""

    alone: dict[str, float]
    """By class: share of samples of its expert that show the class; 0 if it has no expert."""
    asked: float | None
    """Share of scenes that show exactly the requested objects, each of them visible; None if no
    class or no background has an expert."""


class ShapeClassifier(nn.Module):
    """Classifier of binary masks.

    Args:
        classes: names of the classes.
        size: height and width in pixels.
    """

    def __init__(self, classes: Sequence[str], size: int) -> None:
        super().__init__()
        self.classes = (*classes, NO_OBJECT)
        blocks: list[nn.Module] = []
        for a, b in ((1, 16), (16, 32), (32, 64)):
            blocks += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]
        self.net = nn.Sequential(
            *blocks, nn.Flatten(), nn.Linear(64 * (-(-size // 8)) ** 2, len(self.classes))
        )

    def forward(self, mask: Tensor) -> Tensor:
        """Logits ``(n, C + 1)`` of masks ``(n, 1, H, W)`` in {0, 1}, "no object" last."""
        return self.net(mask - 0.5)

    @torch.no_grad()
    def classify(self, mask: Tensor) -> list[str]:
        """Class names of masks ``(n, 1, H, W)`` in [0, 1], thresholded at 0.5."""
        return [self.classes[i] for i in self((mask > 0.5).float()).argmax(1).tolist()]


def train_classifier(scenes: SceneConfig, seed: int = 0) -> ShapeClassifier:
    """Train a classifier of the classes of generated scenes, in about ten seconds.

    Args:
        scenes: configuration of scenes; only classes and sizes matter.
        seed: seed of the classifier and of the training data.
    """
    low, high = scenes.object_size
    alone = replace(
        scenes,
        objects=1,
        min_objects=None,
        selection="random",
        class_weights=None,
        object_size=(0.9 * low, min(1.0, 1.1 * high)),
    )
    renderer = SceneRenderer(alone, seed)
    rendered = renderer.render(torch.arange(_SCENES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = ShapeClassifier(scenes.classes, scenes.size)
        optim = torch.optim.Adam(classifier.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optim, _STEPS)
        for _ in range(_STEPS):
            indices = torch.randint(_SCENES, (_BATCH,))
            shapes, n = rendered.mask[indices, :1].float(), len(classifier.classes)
            masks, labels = _examples(shapes, rendered.label[indices, 0], n)
            loss = F.cross_entropy(classifier(_jittered(masks)), labels)
            optim.zero_grad()
            loss.backward()
            optim.step()
            schedule.step()
    return classifier.eval()


def score_samples(
    econ: Sampler, classifier: ShapeClassifier, objects: int = 3, n: int = 200, seed: int = 0
) -> SampleScores:
    """Judge samples of each expert, and scenes of requested objects.

    Args:
        econ: the scene model; its experts are named after classes.
        classifier: classifier of the same classes.
        objects: number of objects per scene.
        n: number of samples per expert, and of scenes.
        seed: seed of samples and requests.
    """
    _, shapes = econ.sample_experts(n, seed)
    classes = classifier.classes[:-1]
    alone = {name: 0.0 for name in classes}
    for name, shape in zip(econ.names, shapes, strict=True):
        if name in alone:
            alone[name] = classifier.classify(shape).count(name) / n
    available = [name for name in classes if name in econ.names]
    if not available or BACKGROUND not in econ.names:
        return SampleScores(alone, None)
    rng, correct = random.Random(seed), 0
    for i in range(n):
        requested = [rng.choice(available) for _ in range(objects)]
        experts = [econ.names.index(name) for name in (BACKGROUND, *reversed(requested))]
        canvas = econ.sample(1, experts=experts, seed=seed + i)
        correct += _shows(classifier, canvas.shape[0, :-1], requested)
    return SampleScores(alone, correct / n)


def _shows(classifier: ShapeClassifier, masks: Tensor, requested: list[str]) -> bool:
    """Whether masks (N, 1, H, W), front to back, show the requested objects, all visible."""
    visible = regions_of_shapes((masks > 0.5).float()[None])[0]
    min_area = matching.smallest_area(*masks.shape[-2:])
    all_visible = bool((visible.sum((1, 2, 3)) >= min_area).all())
    return classifier.classify(masks) == requested and all_visible


def _examples(masks: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Turn half of the masks into negative examples, whose label is the last class."""
    half = len(masks) // 2
    negatives = _negatives(masks[half:])
    no_object = torch.full((len(negatives),), classes - 1)
    return torch.cat([masks[:half], negatives]), torch.cat([labels[:half], no_object])


def _jittered(masks: Tensor) -> Tensor:
    """Shift masks by up to half a pixel and binarise with random thresholds."""
    n, _, height, width = masks.shape
    transform = torch.eye(2, 3).repeat(n, 1, 1)
    transform[:, :, 2] = (2 * torch.rand(n, 2) - 1) / torch.tensor([width, height])
    grid = F.affine_grid(transform, list(masks.shape), align_corners=False)
    coverage = F.grid_sample(masks, grid, padding_mode="border", align_corners=False)
    return (coverage > 0.5 + _THRESHOLD_RANGE * (torch.rand_like(coverage) - 0.5)).float()


def _negatives(masks: Tensor) -> Tensor:
    """Cut objects, pairs of objects, blobs, and empty or full masks."""
    n, _, height, width = masks.shape
    sizes = [n // 2, n // 5, n // 5, n - n // 2 - 2 * (n // 5)]
    cut, two, blob, rest = masks.split(sizes)
    constant = (torch.rand(len(rest), 1, 1, 1) < 0.3).float().expand_as(rest)
    pairs = (two + two.roll(1, 0)).clamp_max(1.0)
    return torch.cat([_cut(cut), pairs, _blobs(len(blob), height, width), constant])


def _cut(masks: Tensor) -> Tensor:
    """Remove the part on one side of a line, which is axis-aligned for half of the masks."""
    n, _, height, width = masks.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    quarters = 4 * torch.rand(n, 1, 1)
    aligned = torch.rand(n, 1, 1) < 0.5
    angle = torch.pi / 2 * torch.where(aligned, quarters.floor(), quarters)
    projection = angle.cos() * x + angle.sin() * y  # (n, H, W)
    inside = masks[:, 0] > 0
    low = projection.masked_fill(~inside, torch.inf).amin((1, 2))
    high = projection.masked_fill(~inside, -torch.inf).amax((1, 2))
    limits = low + (0.3 + 0.4 * torch.rand(n)) * (high - low)
    return masks * (projection > limits[:, None, None])[:, None]


def _blobs(n: int, height: int, width: int) -> Tensor:
    coarse = torch.randn(n, 1, 5, 5)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (smooth > 0.3 + 0.7 * torch.rand(n, 1, 1, 1)).float()
