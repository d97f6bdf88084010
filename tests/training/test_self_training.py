"""Attention that learns from what refinement makes of images, before training."""

import dataclasses

import pytest
import torch

from econ_pyro.config import RecipeConfig
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.training.grouping import Layers
from econ_pyro.training.self_training import pseudo_labels, self_training
from helpers.trainers import changed, equal, make_trainer, seeded_tiny

SIZE = 32
RECIPE = RecipeConfig(
    grouping_images=16,
    grouping_steps=2,
    grouping_from="textures",
    self_training_images=12,
    self_training_rounds=2,
    self_training_steps=2,
)


@pytest.fixture
def config():
    config = seeded_tiny(shifts=1, learnt=2, salience="features")
    config = changed(config, model__size=SIZE, model__competition__refine=True)
    config = changed(config, model__competition__layer_covariance=0.1)
    return changed(dataclasses.replace(config, recipe=RECIPE), scenes__size=SIZE)


def generator():
    return torch.Generator().manual_seed(0)


def leaves(n, random):
    assert 0 <= torch.rand(1, generator=random) <= 1
    return Layers(torch.ones(n, 3, 8, 8), torch.ones(n, 8, 8).long())


def test_labels_are_the_layers_that_pixels_are_almost_surely_of():
    region = torch.zeros(1, 3, 1, 8, 8)
    region[:, 2, 0, :2], region[:, 0, 0, 2:4] = 1.0, 0.9
    region[:, 1, 0, 4:6] = 0.81
    region[:, :2, 0, 6] = 0.5
    region[:, 0, 0, 7], region[:, 1, 0, 7] = 0.2, 0.79
    rows = [0, 0, 1, 1, 2, 2, -1, -1]  # front to back, but the background, which is the last
    assert pseudo_labels(region)[0, :, 0].tolist() == rows
    region[:, 1, 0, 4:6, 5:] = 0.5  # 10 pixels are left
    assert pseudo_labels(region)[0, :, 0].tolist() == [0, 0, 1, 1, -1, -1, -1, -1]


def test_most_scenes_of_a_lesson_are_the_images_own():
    images = torch.rand(10, 3, 8, 8, generator=generator())
    region = torch.zeros(10, 2, 1, 8, 8)
    region[:, 0, :, 4:], region[:, 1, :, :4] = 1.0, 1.0
    region[3] = 0.5  # nothing is known
    region[4, :, :, :, 1:] = 0.5  # eight pixels, in two small layers
    lesson = self_training(images, lambda x: region, leaves)
    seen = set()
    for _ in range(20):
        scenes = lesson(8, generator() if not seen else torch.Generator().manual_seed(len(seen)))
        assert scenes.labels[6:].eq(1).all() and scenes.image[6:].eq(1).all()
        for image, labels in zip(scenes.image[:6], scenes.labels[:6], strict=True):
            seen.add((images == image).flatten(1).all(1).nonzero().item())
            assert labels[:4].eq(0).all() and labels[4:].eq(1).all()
    assert seen == {*range(10)} - {3, 4}


def test_images_of_which_nothing_is_sure():
    with pytest.raises(EconError, match=r"at least 8 images in which .* got 0 of 10: raise"):
        self_training(torch.rand(10, 3, 8, 8), lambda x: torch.full((10, 2, 1, 8, 8), 0.5), leaves)


def test_each_round_learns_from_what_is_refined_after_the_one_before(
    config, tmp_path, monkeypatch
):
    # patterns, of which covariances change the regions
    config = changed(config, scenes__kind="textured")
    trainer = make_trainer(config, tmp_path / "run")
    model = trainer.learner.model
    found, weights = [], []

    def spy(images, regions, first):
        x = images[:2]
        unrefined = model.decompose(x, refine=False).region
        found.append((regions(x), model.decompose(x).region, unrefined))
        weights.append([p.detach().clone() for p in model.guide.attentions[0].parameters()])
        return self_training(images, regions, first)

    monkeypatch.setattr("econ_pyro.training.start.self_training", spy)
    done = trainer.initialise()
    assert "leaves with textures out of 16 images, to" in done
    assert "; attention learnt 2 times more from what refinement made of 12 images, to" in done
    for regions, refined, unrefined in found:
        torch.testing.assert_close(regions, refined)
        assert not torch.allclose(regions, unrefined, atol=1e-2)
    after = [*model.guide.attentions[0].parameters()]
    assert not equal(weights[0], weights[1])
    assert not equal(weights[1], [p.detach() for p in after])
    for network in list(model.guide.attentions)[1:]:
        assert equal([p.detach() for p in after], [p.detach() for p in network.parameters()])


@pytest.mark.parametrize("source", ["colour", "cutouts"])
def test_the_first_lesson_goes_on_beside(config, tmp_path, source, monkeypatch):
    monkeypatch.setattr("econ_pyro.training.cutout_lessons.LEAST", 1)
    monkeypatch.setattr("econ_pyro.training.cutout_lessons.COVERED", 0.0)
    config = changed(config, recipe__grouping_from=source, recipe__grouping_images=30)
    config = changed(config, scenes__background="grey", recipe__self_training_rounds=1)
    given = []

    def spy(images, regions, first):
        given.append(first(3, generator()).image)
        return self_training(images, regions, first)

    monkeypatch.setattr("econ_pyro.training.start.self_training", spy)
    trainer = make_trainer(config, tmp_path / "run")
    assert "; attention learnt once more from what refinement made of 12" in trainer.initialise()
    assert given[0].shape == (3, 3, SIZE, SIZE)


def test_experts_that_are_put_together_keep_what_they_have_learnt(config):
    recipe = Econ(config).with_experts([1]).config.recipe
    assert recipe.self_training_images == 0


def test_what_self_training_needs(config):
    with pytest.raises(EconError, match=r"recipe.grouping-images, which comes before.* got 0"):
        changed(config, recipe__grouping_images=0)
    with pytest.raises(EconError, match=r"competition.refine, of which .* got no-refine: add"):
        changed(config, model__competition__refine=False)
