"""A judge of whole scenes, who looks at the image alone, whatever system drew it.

The judge divides the image into segments of flat colours
(:mod:`econ_pyro.evaluation.flat_segments`). What nearer segments may hide of a segment is
completed from the rendered shape of a class that fits best. The segment may be of that class if
the fit is close, and if the classifier of :mod:`econ_pyro.evaluation.sample_quality` says so of
the completed mask. A scene shows what is requested if there is a depth order in which every
segment may be of one of the requested classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.evaluation.flat_segments import object_segments
from econ_pyro.evaluation.sample_quality import train_classifier
from econ_pyro.scene_config import SceneConfig

TOLERANCE = 0.15
"""Largest share of a shape that may be wrong, in pixels of the shape."""
MOST = 5
"""Number of objects from which on no scene is judged: all orders are tried."""
_TEMPLATES = 12_000


class Classifier(Protocol):
    """What the judge asks.

    :class:`~econ_pyro.evaluation.sample_quality.ShapeClassifier` is one.
    """

    def classify(self, mask: Tensor) -> list[str]:
        """Class names of masks ``(n, 1, H, W)`` in [0, 1]; others where there is no object."""


class Seen(NamedTuple):
    """What the judge saw in an image."""

    classes: tuple[str, ...]
    fits: Tensor | None
    """Whether a segment may be of a class with others in front, ``(N, 2^N, C)`` bool: the second
    axis is a set of segments in front, as bits. None if the image is no scene of flat colours."""

    def shows(self, requested: Iterable[str]) -> bool:
        """Whether the image shows exactly the requested objects, whole but for what is hidden.

        Args:
            requested: names of classes, one per object, in any order.
        """
        wanted = Counter(self.classes.index(name) for name in requested)
        if self.fits is None or len(self.fits) != wanted.total():
            return False
        return _in_some_order(self.fits, wanted)

    @property
    def whole(self) -> bool:
        """Whether the image shows objects of any classes, at least one, and nothing else."""
        if self.fits is None or not len(self.fits):
            return False
        return _in_some_order(self.fits.any(2, keepdim=True), Counter({0: len(self.fits)}))


class SceneJudge:
    """Says which objects an image shows.

    Args:
        classes: names of the classes.
        classifier: classifier of masks.
        templates: shapes of objects alone, ``(n, H, W)`` bool.
        labels: class of each template, ``(n,)`` int64.
    """

    def __init__(
        self, classes: Sequence[str], classifier: Classifier, templates: Tensor, labels: Tensor
    ) -> None:
        self.classes, self._classifier = tuple(classes), classifier
        flat = [templates[labels == c].flatten(1) for c in range(len(self.classes))]
        self._templates = [t.unique(dim=0) for t in flat]

    def look(self, image: Tensor) -> Seen:
        """What an image may show.

        Args:
            image: ``(3, H, W)`` in [0, 1].
        """
        segments = object_segments(image)
        if segments is None or len(segments) > MOST:
            return Seen(self.classes, None)
        return Seen(self.classes, self._fits(segments))

    def shows(self, image: Tensor, requested: Iterable[str]) -> bool:
        """:meth:`Seen.shows` of an image, ``(3, H, W)`` in [0, 1]."""
        return self.look(image).shows(requested)

    def _fits(self, segments: Tensor) -> Tensor:
        """:attr:`Seen.fits` of segments.

        Args:
            segments: ``(N, H, W)`` bool.
        """
        n, flat = len(segments), segments.flatten(1).float()
        fits = torch.zeros(n, 2**n, len(self.classes), dtype=torch.bool)
        places: list[tuple[int, int, int]] = []
        completed: list[Tensor] = []
        for c, templates in enumerate(self._templates):
            common = flat @ templates.float().mT  # (N, templates)
            sizes = templates.sum(1)
            for k, front in _fronts(n):
                nearer = [j for j in range(n) if front >> j & 1]
                outside = flat[k].sum() - common[k]
                missing = sizes - common[[k, *nearer]].sum(0)
                wrong, best = (outside + missing).min(0)
                if wrong <= TOLERANCE * sizes[best]:
                    hidden = templates[best].view_as(segments[k]) & segments[nearer].any(0)
                    places.append((k, front, c))
                    completed.append(segments[k] | hidden)
        if completed:
            names = self._classifier.classify(torch.stack(completed)[:, None].float())
            for (k, front, c), name in zip(places, names, strict=True):
                fits[k, front, c] = name == self.classes[c]
        return fits


def train_judge(scenes: SceneConfig, seed: int = 0) -> SceneJudge:
    """Train a judge of the classes of generated scenes, in about ten seconds.

    Args:
        scenes: configuration of the scenes; only classes and sizes matter.
        seed: seed of the classifier, of its training data and of the templates.
    """
    classifier = train_classifier(scenes, seed)
    alone = replace(
        scenes, objects=1, min_objects=None, selection="random", class_weights=None, places=None
    )
    drawn = SceneRenderer(alone, seed + 1).render(torch.arange(_TEMPLATES))
    return SceneJudge(scenes.classes, classifier, drawn.mask[:, 0], drawn.label[:, 0])


def _fronts(n: int) -> list[tuple[int, int]]:
    """Each of N segments with each set of others that may be in front."""
    return [(k, front) for k in range(n) for front in range(2**n) if not front >> k & 1]


def _in_some_order(fits: Tensor, wanted: Counter[int], placed: int = 0) -> bool:
    """Whether segments can be placed front to back, each as one of the wanted classes."""
    if not wanted.total():
        return True
    for k in range(len(fits)):
        for c in [c for c, count in wanted.items() if count]:
            if not placed >> k & 1 and fits[k, placed, c]:
                if _in_some_order(fits, wanted - Counter([c]), placed | 1 << k):
                    return True
    return False
