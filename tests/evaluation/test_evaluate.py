"""Evaluation: what is decomposed and how, and scenes that are out of distribution as they say."""

import dataclasses

import pytest
import torch

from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ, load
from econ_pyro.errors import EconError
from econ_pyro.evaluation.baselines import SEGMENTATIONS
from econ_pyro.evaluation.evaluate import (
    CORRUPTIONS,
    corrupted_sources,
    evaluate,
    evaluate_each,
    format_table,
    ood_sources,
)
from econ_pyro.evaluation.metrics import evaluate_regions
from econ_pyro.io.scene_file import of_decomposition


@pytest.fixture
def econ(tiny):
    competition = dataclasses.replace(tiny.model.competition, refine=True)
    model = dataclasses.replace(tiny.model, competition=competition)
    return Econ(dataclasses.replace(tiny, model=model, names=("first", "", "")))


@pytest.fixture
def source(tiny):
    return GeneratedScenes(dataclasses.replace(tiny.scenes, objects=2), 3, 6, "valid")


def test_true_regions_are_given_and_taken(econ, source):
    metrics = evaluate(econ, source, gt_masks=True)
    for score in ("ari", "ari_fg", "visible_iou", "found", "oca"):
        counted = metrics.scores[score][~metrics.scores[score].isnan()]
        assert len(counted) and (counted == 1).all(), score
    assert not (evaluate(econ, source).scores["ari"] == 1).all()
    assert metrics.expert_names[0] == "first"


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("slots", [None, 5])
def test_scores_are_of_the_decomposition_that_is_asked_for(econ, source, slots, refine):
    x = source.images(torch.arange(6))
    d = econ.decompose(x, slots, refine=refine)
    metrics = evaluate(econ, source, slots, refine=refine)
    assert d.k.shape[1] == (slots or 3)
    for name, term in zip("xzr", d.terms, strict=True):
        torch.testing.assert_close(metrics.scores[name], term.double().sum(1))
    other = evaluate(econ, source, slots, refine=not refine)
    assert not torch.equal(other.scores["r"], metrics.scores["r"])


def test_true_regions_of_images_without_are_an_error(econ, source):
    class Images:
        size, classes = source.size, ()
        images, scenes = source.images, staticmethod(lambda indices: None)

        def __len__(self):
            return len(source)

    assert set(evaluate(econ, Images()).scores) == {"mse", "x", "z", "r", "layers"}
    with pytest.raises(EconError, match="gt-masks"):
        evaluate(econ, Images(), gt_masks=True)


def test_ood_scenes_are_what_they_are_called(tiny, econ):
    found = ood_sources(econ, 40)
    assert all(len(source) == 40 for source, _ in found.values())
    scenes = {name: source.scenes(torch.arange(40)) for name, (source, _) in found.items()}
    number = {name: (s.label >= 0).sum(1) for name, s in scenes.items()}
    slots = {name: t for name, (_, t) in found.items()}
    for n in (4, 5):  # a layer for each, and one for the background
        assert (number[f"{n} objects"] == n).all() and slots[f"{n} objects"] == n + 1
    labels = scenes["3 of one class"].label
    assert (labels == labels[:, :1]).all() and len(labels.unique()) == 3
    assert (number["3 of one class"] == 3).all() and slots["3 of one class"] == 4
    near = scenes["near background"]
    off = (near.colour.int() - near.background.int()[:, None]).abs().amax(-1)[near.label >= 0]
    assert 32 < off.max() <= 64 and slots["near background"] == 3
    assert slots["2 spare layers"] == 5
    usual = GeneratedScenes(tiny.scenes, 0, 40, "valid").scenes(torch.arange(40))
    assert (number["2 spare layers"] == (usual.label >= 0).sum(1)).all()
    assert not torch.equal(scenes["2 spare layers"].image, usual.image)  # no run's own


def test_each_shift_is_measured_with_its_layers(econ):
    sources = ood_sources(econ, 2)
    reports = evaluate_each(econ, sources)
    assert list(reports) == list(sources)
    for name, (source, steps) in sources.items():
        d = econ.decompose(source.images(torch.arange(2)), steps)
        torch.testing.assert_close(reports[name].scores["z"], d.terms.z.double().sum(1))
    del sources["near background"]  # three objects, and three layers
    given = evaluate_each(econ, sources, gt_masks=True)
    assert all((report.scores["ari"] == 1).all() for report in given.values())


def test_baselines_stand_beside_each_set_of_scenes(econ, source):
    with torch.no_grad():
        for parameter in econ.parameters():
            parameter.add_(0.1)
    sources = {"usual": (source, None), "more": (source, 5)}
    reports = evaluate_each(econ, sources, refine=False, baselines=True)
    rows = ["", ", untrained", *(f", {name}" for name in SEGMENTATIONS)]
    assert list(reports) == [name + row for name in sources for row in rows]
    initial = Econ(econ.config)
    for name, (scenes, slots) in sources.items():
        x = scenes.images(torch.arange(6))
        for model, row in ((econ, ""), (initial, ", untrained")):
            d = model.decompose(x, slots, refine=False)
            torch.testing.assert_close(reports[name + row].scores["x"], d.terms.x.double().sum(1))
        for kind, segment in SEGMENTATIONS.items():
            expected = evaluate_regions(x, segment(x, slots or 3), scenes.scenes(torch.arange(6)))
            for score, value in expected.scores.items():
                found = reports[f"{name}, {kind}"].scores[score]
                torch.testing.assert_close(found, value, equal_nan=True)
    assert not torch.equal(reports["usual"].scores["x"], reports["usual, untrained"].scores["x"])
    assert reports["more, position only"].scores["layers"].tolist() == [5] * 6


def test_corrupted_scenes_are_measured_against_the_truth(econ, source):
    sources = corrupted_sources(source)
    assert list(sources) == list(CORRUPTIONS) and len(sources) == 8
    clean = source.images(torch.arange(6))
    reports = {"held-out": evaluate(econ, source)}
    seen = [clean]
    for name, corrupted in sources.items():
        x = corrupted.images(torch.arange(6))
        assert not any(torch.equal(x, other) for other in seen)
        seen.append(x)
        reports[name] = evaluate(econ, corrupted)
        d = econ.decompose(x)
        torch.testing.assert_close(reports[name].scores["z"], d.terms.z.double().sum(1))
        given = evaluate(econ, corrupted, gt_masks=True)  # regions are of the clean scenes
        assert (given.scores["ari"] == 1).all()
    rows = format_table({**reports, "a name of more than eighteen characters": reports["blur=1"]})
    assert len({len(row) for row in rows.splitlines()}) == 1


def test_presence_is_a_number_of_pixels_that_can_be_set():
    """Of the same layers, as many are present as have that many pixels."""
    econ = load("quick")
    source = GeneratedScenes(econ.config.scenes, 3, 6, "valid")
    hard = econ.decompose(source.images(torch.arange(6))).segmentation
    for least in (None, 1, 60, 400):
        needed = 8 if least is None else least  # 0.8% of 32x32
        areas = [int((hard[b] == t).sum()) for b in range(6) for t in range(4)]
        present = sum(area >= needed for area in areas)
        assert evaluate(econ, source, min_area=least).summary()["layers"] * 6 == present
        scenes = [of_decomposition(econ.decompose(source.images(torch.tensor([b]))), least)
                  for b in range(6)]  # fmt: skip
        assert sum(layer.visible for scene in scenes for layer in scene.layers) == present
