"""The judge of samples, and what counts as success."""

import math

import pytest
import torch

from econ_pyro.config import Config
from econ_pyro.econ import Econ
from econ_pyro.judge import NOTHING, score_samples, train_judge
from econ_pyro.models.dead_leaves import Canvas
from econ_pyro.scene_config import SceneConfig
from econ_pyro.scenes import SceneRenderer
from econ_pyro.success import CRITERIA, failures, table


@pytest.fixture(scope="module")
def judge():
    return train_judge(SceneConfig())


@pytest.fixture(scope="module")
def drawn():
    scenes = SceneConfig(objects=1, selection="random")
    return SceneRenderer(scenes, 99).render(torch.arange(300))


def test_it_knows_rendered_shapes(judge, drawn):
    seen = judge.judge(drawn.mask[:, :1].float())
    want = [judge.classes[k] for k in drawn.label[:, 0]]
    assert sum(a == b for a, b in zip(seen, want, strict=True)) / len(want) > 0.98


def test_it_is_not_taken_in(judge, drawn):
    masks = drawn.mask[:, :1].float()
    halves = masks.clone()
    for mask in halves:  # the left half of each object is gone
        columns = mask[0].any(0).nonzero()
        mask[0, :, : int(columns.float().mean())] = 0
    other = masks.roll(1, 0)
    apart = (masks + other)[(masks * other).sum((1, 2, 3)) == 0]  # two that do not touch
    for spoiled in (halves, apart, torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)):
        assert judge.judge(spoiled).count(NOTHING) / len(spoiled) > 0.85


class Painter(Econ):
    """An econ whose samples are rendered: a circle, a square, a square for a triangle."""

    def __init__(self):
        super().__init__(Config(), names=["background", "circle", "square", "triangle"])

    def shapes(self, names, seed):
        out = []
        for i, name in enumerate(names):
            kind = {"triangle": "square"}.get(name, name)
            if kind == "background":
                out.append(torch.ones(1, 32, 32))
                continue
            scenes = SceneConfig(objects=1, classes=(kind,))
            index = torch.tensor([10 * seed + i])
            out.append(SceneRenderer(scenes, 7).render(index).mask[0, :1].float())
        return torch.stack(out)

    def sample_experts(self, n, seed=0):
        shapes = torch.stack([self.shapes(self.names, seed + i) for i in range(n)], 1)
        return shapes.expand(-1, -1, 3, -1, -1), shapes

    def sample(self, n=1, scene=None, seed=None, **_):
        shape = self.shapes(list(reversed(scene.split())), seed)[None]
        empty = torch.zeros(1)
        return Canvas(empty, empty, shape, empty, empty)


def test_samples_are_judged_by_class_and_scenes_by_all_their_objects(judge):
    scores = score_samples(Painter(), judge, n=60)
    assert scores.alone["circle"] > 0.95 and scores.alone["square"] > 0.95
    assert scores.alone["triangle"] == 0
    # of three objects at random none may be a triangle: (2/3)^3, less those that hide another
    assert scores.asked == pytest.approx((2 / 3) ** 3, abs=0.2)


def test_success_needs_every_score():
    good = {name: bound for name, (_, bound) in CRITERIA.items()}
    assert failures(good) == []
    assert failures({**good, "mse": 0.0021, "ooa": None}) == ["ooa", "mse"]
    assert failures({**good, "ari_fg": math.nan}) == ["ari_fg"]


def test_the_table_counts_seeds():
    good = {name: bound for name, (_, bound) in CRITERIA.items()}
    lines = table({0: good, 1: {**good, "ari_fg": 0.5}, 2: good}, extra=("minutes",)).splitlines()
    assert lines[0].startswith("| seed | ari_fg >= 0.95 |") and len(lines) == 7
    assert lines[3].endswith("| - | no |")
    assert lines[5].startswith("| median | 0.950 |") and lines[5].endswith("2 of 3 |")
    assert lines[6].startswith("| range | 0.500 to 0.950 |")
