"""The classifier of samples, and what counts as success."""

import math

import pytest
import torch

from econ_pyro.config import Config
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.econ import Econ
from econ_pyro.evaluation import sample_quality
from econ_pyro.evaluation.sample_quality import (
    NO_OBJECT,
    ShapeClassifier,
    score_samples,
    train_classifier,
)
from econ_pyro.evaluation.success_criteria import CRITERIA, failures, table
from econ_pyro.models.dead_leaves import Canvas
from econ_pyro.scene_config import SceneConfig


@pytest.fixture(scope="module")
def classifier():
    """One of as many steps as always, of half as many images: it needs no more to pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_quality, "_SCENES", 10_000)
        patch.setattr(sample_quality, "_BATCH", 64)
        return train_classifier(SceneConfig())


@pytest.fixture(scope="module")
def drawn():
    scenes = SceneConfig(objects=1, selection="random")
    return SceneRenderer(scenes, 99).render(torch.arange(300))


def test_it_knows_rendered_shapes(classifier, drawn):
    seen = classifier.classify(drawn.mask[:, :1].float())
    want = [classifier.classes[k] for k in drawn.label[:, 0]]
    assert sum(a == b for a, b in zip(seen, want, strict=True)) / len(want) > 0.98


def test_it_is_not_taken_in(classifier, drawn):
    masks = drawn.mask[:, :1].float()
    halves = masks.clone()
    for mask in halves:  # the left half of each object is gone
        columns = mask[0].any(0).nonzero()
        mask[0, :, : int(columns.float().mean())] = 0
    other = masks.roll(1, 0)
    apart = (masks + other)[(masks * other).sum((1, 2, 3)) == 0]  # two that do not touch
    for spoiled in (halves, apart, torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)):
        assert classifier.classify(spoiled).count(NO_OBJECT) / len(spoiled) > 0.85


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

    def sample(self, n=1, *, experts, seed=None):
        shape = self.shapes([self.names[e] for e in reversed(experts)], seed)[None]
        empty = torch.zeros(1)
        return Canvas(empty, empty, shape, empty, empty)


def test_samples_are_judged_by_class_and_scenes_by_all_their_objects(classifier):
    scores = score_samples(Painter(), classifier, n=60)
    assert scores.alone["circle"] > 0.95 and scores.alone["square"] > 0.95
    assert scores.alone["triangle"] == 0
    # of three objects at random none may be a triangle: (2/3)^3, less those that hide another
    assert scores.asked == pytest.approx((2 / 3) ** 3, abs=0.2)


class ByArea:
    """A classifier who goes by the number of pixels."""

    classes = ("circle", "square", NO_OBJECT)

    def classify(self, mask):
        areas = (mask > 0.5).sum((1, 2, 3)).tolist()
        return [{20: "circle", 30: "square"}.get(area, NO_OBJECT) for area in areas]


class Exact:
    """Draws what is asked for, each object in its own rows, all but ``hidden`` of them to be seen.

    Args:
        hidden: pixels of each object that the nearer one covers.
    """

    names = ("square", "background", "circle")

    def __init__(self, hidden=0):
        self.hidden, self.seeds = hidden, []

    def rows(self, name, first):
        mask = torch.zeros(1, 32, 32)
        mask.view(-1)[first : first + {"circle": 20, "square": 30, "background": 1024}[name]] = 1
        return mask

    def sample_experts(self, n, seed=0):
        shapes = torch.stack([self.rows(name, 0) for name in self.names])
        return shapes, shapes[:, None].expand(-1, n, -1, -1, -1)

    def sample(self, n, *, experts, seed):
        self.seeds.append(seed)
        front_to_back, masks, first = [self.names[e] for e in experts[::-1]], [], 0
        for name in front_to_back:
            masks.append(self.rows(name, 0 if name == "background" else first))
            first += int(masks[-1].sum()) - self.hidden
        empty = torch.zeros(1)
        return Canvas(empty, empty, torch.stack(masks)[None], empty, empty)


def test_who_draws_what_is_asked_for_is_right_every_time():
    econ = Exact()
    scores = score_samples(econ, ByArea(), n=7)
    assert len(set(econ.seeds)) == 7  # scenes of their own
    assert scores.alone == {"circle": 1.0, "square": 1.0} and scores.asked == 1.0


@pytest.mark.parametrize(("hidden", "asked"), [(12, 1.0), (13, 0.0)])
def test_of_each_object_eight_pixels_have_to_be_seen(hidden, asked):
    class Circles(Exact):
        names = ("circle", "background")

    scores = score_samples(Circles(hidden), ByArea(), n=5)
    assert scores.alone == {"circle": 1.0, "square": 0.0} and scores.asked == asked


def test_a_pixel_is_of_the_object_from_a_half_on():
    class More(torch.nn.Module):
        """A circle if most pixels are of it."""

        def forward(self, mask):
            return torch.stack([mask.mean((1, 2, 3)), torch.zeros(len(mask))], 1)

    classifier = ShapeClassifier(("circle",), 8)
    classifier.net = More()
    masks = torch.tensor([0.4, 0.6])[:, None, None, None].expand(-1, 1, 8, 8)
    assert classifier.classify(masks) == [NO_OBJECT, "circle"]


def test_a_judge_has_seen_all_sizes_and_a_tenth_more(monkeypatch):
    seen = []

    class Seen(Exception):
        pass

    def render(config, seed):
        seen.append(config)
        raise Seen

    monkeypatch.setattr("econ_pyro.evaluation.sample_quality.SceneRenderer", render)
    with pytest.raises(Seen):
        train_classifier(SceneConfig(object_size=(0.3, 0.5)))
    assert seen[0].object_size == pytest.approx((0.27, 0.55)) and seen[0].objects == 1


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


def test_the_table_has_the_middle_and_the_ends_of_each_score():
    good = {name: bound for name, (_, bound) in CRITERIA.items()}
    runs = {seed: {**good, "ari_fg": v} for seed, v in enumerate([0.99, 0.5, 0.97, 0.96, 0.98])}
    lines = table(runs).splitlines()
    assert lines[-2].startswith("| median | 0.970 |") and lines[-2].endswith("| 4 of 5 |")
    assert lines[-1].startswith("| range | 0.500 to 0.990 |")
