"""Table 1's row "recombine controllably": requests by class, and objects that are exchanged.

A system with an expert of each class is asked by name. All other systems get the best control that
can be had after training (:class:`ClusterControl`): slots of training images are clustered by
their latents (those of ECON by their experts), each cluster is named after the class that most of
its slots show, and a requested object is a slot from a cluster of that name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from econ_pyro.core.compositing import compose, regions_of_shapes
from econ_pyro.data.ground_truth import Truth
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.evaluation import matching
from econ_pyro.evaluation.baselines import k_means
from econ_pyro.evaluation.coherent_scenes import has_experts
from econ_pyro.evaluation.evaluate import TEST_SEED, held_out
from econ_pyro.evaluation.sample_quality import BACKGROUND
from econ_pyro.evaluation.scene_judge import SceneJudge
from econ_pyro.evaluation.system_table import MISSING, Row, Scores, Value, reference
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.scene_config import SceneConfig

COLUMNS = {"requests": "requests right", "swaps": "swaps right", "control": "control"}
"""Titles of the scores."""
CLUSTERS = 16
"""Clusters of slots; with one for each class, they would differ in position instead."""
_NEITHER, _ABSENT = -1, -2

Request = tuple[str, ...]
"""Classes of the objects, front to back."""
Draw = Callable[[Request, int, int], Tensor]
"""A request, a number of scenes and a seed to images, ``(n, 3, H, W)``."""


def requests(classes: Sequence[str], n: int, seed: int = 0) -> dict[Request, int]:
    """Random requests of different classes, from one object to one of each, and how often."""
    rng, found = random.Random(seed), dict[Request, int]()
    for _ in range(n):
        asked = tuple(rng.sample(list(classes), rng.randint(1, len(classes))))
        found[asked] = found.get(asked, 0) + 1
    return found


def measure(
    model: SceneModel, judge: SceneJudge, scenes: SceneConfig, n: int, clustered: int = 1250
) -> Scores:
    """Share of requests and of swaps that the judge finds right.

    Args:
        model: the scene model.
        judge: of the classes of the scenes.
        scenes: distribution of the scenes.
        n: number of requests and of swaps.
        clustered: number of training images whose slots are clustered.
    """
    draw, control = by_name(model), "by name"
    if not has_experts(model, judge.classes):
        draw, control = ClusterControl(model, scenes, clustered).draw, "clusters of slots"
    right = answered(draw, judge, n)
    return {"requests": right, "swaps": swapped(model, judge, scenes, n), "control": control}


def answered(draw: Draw, judge: SceneJudge, n: int) -> float:
    """Share of n requests whose image shows what was asked for."""
    right = 0
    for i, (asked, count) in enumerate(requests(judge.classes, n).items()):
        right += sum(judge.shows(x.clamp(0, 1), asked) for x in draw(asked, count, i))
    return right / n


def by_name(model: Any) -> Draw:
    """The control of a model with an expert of each class."""

    def draw(asked: Request, n: int, seed: int) -> Tensor:
        return model.sample(n, experts=(BACKGROUND, *reversed(asked)), seed=seed).image.cpu()

    return draw


class ClusterControl:
    """Slots of training images by the class of their cluster.

    Args:
        model: the scene model.
        scenes: distribution of the scenes.
        n: number of training images.
    """

    def __init__(self, model: SceneModel, scenes: SceneConfig, n: int) -> None:
        self._model = model
        source = GeneratedScenes(scenes, model.config.seed, n, "train")
        truth = source.scenes(torch.arange(n))
        self._layers = present_only(model.decompose(truth.image))
        shows = shown(self._layers, truth, len(source.classes))  # (B, T)
        members, names = (shows != _ABSENT).nonzero(), [*source.classes, BACKGROUND]
        shows = shows[shows != _ABSENT]
        cluster = self._clusters(tuple(members.T))
        of_cluster = _majority(cluster, shows, len(names))[cluster]
        self.members = {name: members[of_cluster == c] for c, name in enumerate(names)}
        """Image and slot of each slot in clusters of that name, ``(m, 2)``."""

    def _clusters(self, where: tuple[Tensor, ...]) -> Tensor:
        """The cluster of each slot: its expert, of a model with experts."""
        if self._layers.experts:
            return self._layers.k[where]
        return k_means(self._layers.z[where][None], CLUSTERS)[0]

    def draw(self, asked: Request, n: int, seed: int) -> Tensor:
        """Scenes of slots that were seen in training; black if there is no cluster of a name."""
        pools = [self.members[name] for name in (*asked, BACKGROUND)]
        if not all(map(len, pools)):
            return torch.zeros(n, *self._layers.image.shape[1:])
        generator = torch.Generator().manual_seed(seed)
        chosen = [p[torch.randint(len(p), (n,), generator=generator)] for p in pools]
        rows, slots = torch.stack(chosen, 1).unbind(2)  # (n, N + 1) each
        slots, order = slots.sort(dim=1, stable=True)  # as they were in their images
        return self._model.redraw(self._layers.picked(rows.gather(1, order), slots))


def present_only(d: Decomposition) -> Decomposition:
    """The decomposition, with empty shapes of layers that are not present."""
    hard = matching.hard_regions(d.segmentation, d.k.shape[1])
    present = matching.present_layers(hard)[:, :, None, None, None]
    return replace(d, shape=d.shape * present)


def shown(d: Decomposition, truth: Truth, classes: int) -> Tensor:
    """What each layer shows, ``(B, T)`` int64.

    A class; ``classes`` for the background, -1 for neither, -2 if the layer is not present.
    """
    hard = matching.hard_regions(d.segmentation, d.k.shape[1])
    label = truth.label
    assert label is not None
    found = matching.match(hard, label, truth.region)
    shows = torch.where(found.present, _NEITHER, _ABSENT)
    rows = torch.arange(len(shows))
    there = found.background >= 0
    shows[rows[there], found.background[there]] = classes
    b, i = (found.layer >= 0).nonzero(as_tuple=True)
    shows[b, found.layer[b, i]] = label[b, i]
    return shows


def swapped(model: SceneModel, judge: SceneJudge, scenes: SceneConfig, n: int) -> float:
    """Share of held-out scenes that are right after an object was exchanged.

    One object of each scene is replaced by that of the same class of the next scene, which is
    elsewhere and may have another colour. The scene has to show one whole object of each class as
    before. Objects without a layer in either scene count as wrong.

    Args:
        model: the scene model.
        judge: of the classes of the scenes.
        scenes: distribution of the scenes, of which each has one object of each class.
        n: number of scenes.
    """
    truth = held_out(scenes, n).scenes(torch.arange(n))
    d = present_only(model.decompose(truth.image))
    kept, rows, layers = _exchanges(shown(d, truth, len(judge.classes)), len(judge.classes))
    images = model.redraw(d.picked(rows, layers)[kept]) if kept.any() else d.image[:0]
    return sum(judge.shows(x.clamp(0, 1), judge.classes) for x in images) / n


def _exchanges(shows: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scenes whose object and whose neighbour's object have a layer, ``(B,)``; rows and layers.

    Args:
        shows: what each layer shows, ``(B, T)``.
        classes: number of classes.
    """
    n, slots = shows.shape
    here = torch.arange(n)
    there, wanted = here.roll(-1), (here % classes)[:, None]
    own, other = shows == wanted, shows[there] == wanted
    rows, layers = here[:, None].repeat(1, slots), torch.arange(slots).repeat(n, 1)
    at = own.float().argmax(1)
    rows[here, at], layers[here, at] = there, other.float().argmax(1)
    return own.any(1) & other.any(1), rows, layers


def references(judge: SceneJudge, scenes: SceneConfig, n: int) -> list[Row]:
    """Requests and swaps by the renderer, and held-out scenes in place of what was asked for."""

    def rendered(asked: Request, n: int, seed: int) -> Tensor:
        alone = replace(scenes, classes=asked, objects=len(asked), class_weights=None)
        return GeneratedScenes(alone, TEST_SEED + seed, n, "valid").images(torch.arange(n))

    def any_scene(asked: Request, n: int, seed: int) -> Tensor:
        return GeneratedScenes(scenes, TEST_SEED + seed, n, "valid").images(torch.arange(n))

    drawn: dict[str, tuple[Draw, Value]] = {
        "rendered (ceiling)": (rendered, _rendered_swaps(judge, scenes, n)),
        "held-out scenes, whatever is asked for (floor)": (any_scene, MISSING),
    }
    rows = []
    for name, (draw, swaps) in drawn.items():
        right = answered(draw, judge, n)
        rows.append(reference(name, {"requests": right, "swaps": swaps, "control": MISSING}))
    return rows


def _rendered_swaps(judge: SceneJudge, scenes: SceneConfig, n: int) -> float:
    truth = held_out(scenes, n).scenes(torch.arange(n))
    _, rows, layers = _exchanges(truth.label, len(judge.classes))
    mask, colour = truth.mask[rows, layers][:, :, None].float(), truth.colour[rows, layers] / 255
    shape = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    mean = torch.cat([colour, truth.background[:, None] / 255], 1)[..., None, None]
    images = compose(regions_of_shapes(shape), mean.expand(-1, -1, -1, *mask.shape[-2:]))
    return sum(judge.shows(x, judge.classes) for x in images) / n


def _majority(cluster: Tensor, shows: Tensor, names: int) -> Tensor:
    """What most slots of each cluster show; ``names`` of clusters that show neither."""
    shows = torch.where(shows == _NEITHER, names, shows)
    counts = torch.zeros(int(cluster.max()) + 1, names + 1, dtype=torch.long)
    counts.index_put_((cluster, shows), torch.ones_like(shows), accumulate=True)
    return counts.argmax(1)
