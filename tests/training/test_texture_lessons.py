"""Scenes of textured leaves: their layers are what they say, their textures out of the images."""

import dataclasses

import pytest
import torch

from econ_pyro.config import RecipeConfig
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.guides.region_growing import grow
from econ_pyro.guides.seeded import SeededUNet
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training import texture_lessons
from econ_pyro.training.grouping import SLIVER, learn_grouping
from econ_pyro.training.texture_lessons import textured_leaves
from helpers.trainers import changed, make_trainer, seeded_tiny

SIZE = 32


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_each_layer_has_the_texture_of_one_image():
    # of an image, the channels have one value each, with no value in two images
    values = torch.arange(36).float().view(12, 3) / 36
    images = values[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    scenes = textured_leaves(images, 3, 60, generator())
    assert scenes.image.shape == (60, 3, SIZE, SIZE) and scenes.labels.shape == (60, SIZE, SIZE)
    where = [values.sort(1).values.eq(x.sort().values).all(1).nonzero() for x in
             scenes.image.permute(0, 2, 3, 1).reshape(-1, 3)]  # fmt: skip
    source = torch.cat([found.flatten() for found in where]).view(60, SIZE, SIZE)
    permuted = 0
    for image, labels, of in zip(scenes.image, scenes.labels, source, strict=True):
        for layer in labels.unique():
            inside = labels == layer
            if layer >= 0:
                assert len(of[inside].unique()) == 1 and inside.sum() >= SLIVER
                permuted += bool(image[:, inside][:, 0].ne(values[of[inside][0]]).any())
    layers = (scenes.labels.flatten(1).max(1).values + 1).float()
    assert 2 <= layers.min() and layers.max() == 4
    assert 0.2 < permuted / layers.sum() < 0.6  # half of the textures, but one permutation of six


def test_tiles_are_mirrored_squares_of_an_image(monkeypatch):
    monkeypatch.setattr(texture_lessons, "TILES", (0.25, 0.25))
    images = torch.randint(2**20, (2, 3, SIZE, SIZE), generator=generator(1)) / 2**20  # sums exact
    for seed in range(8):
        tiled = texture_lessons._texture(images, generator(seed))
        assert torch.equal(tiled[:, 16:], tiled[:, :16]) and torch.equal(
            tiled[..., 16:], tiled[..., :16]
        )
        colours = tiled.flatten(1).sum(0)
        assert len(colours.unique()) == 64  # pixels of a square of 8
        assert torch.isin(colours, images.sum(1).flatten()).all()
        # neighbours in tiles are neighbours in the image, or the same pixel
        first, second = colours.view(SIZE, SIZE)[:2]
        assert len(torch.stack([first, second], 1).unique(dim=0)) <= 8


def test_leaves_are_convex_and_of_the_sizes_that_are_given():
    for seed in range(40):
        inside = texture_lessons._leaf(64, generator(seed))
        rows = inside.any(1).nonzero().flatten()
        assert 64 * 0.12 * 0.5 * 1.5 < len(rows) < 2 * 1.3 * 0.28 * 64 + 1
        for line in (*inside, *inside.mT):
            edges = line.int().diff().abs().sum()
            assert edges <= 2  # one run of pixels


@pytest.fixture
def config():
    config = seeded_tiny(
        bias=0.0, colour_weight=0.1, place_weight=0.05, channels=(8, 16, 16), hidden=32, shifts=1
    )
    return changed(config, model__size=SIZE, model__num_slots=4)


def test_textures_part_once_it_is_learnt(config):
    scenes = SceneConfig(kind="textured", background="any", size=SIZE)
    images = GeneratedScenes(scenes, 0, 60).images(torch.arange(60))
    unseen = GeneratedScenes(scenes, 1, 20).scenes(torch.arange(20))
    torch.manual_seed(0)
    net = SeededUNet(config.model.expert, SIZE)

    def overlap():
        """IoU of objects with what grows from a pixel in their middle."""
        with torch.no_grad():
            x = torch.cat([unseen.image, torch.zeros_like(unseen.image[:, :1])], 1)
            features = net(x)
        found = []
        for b in range(20):
            for r in unseen.region[b].bool():
                if r.sum() > 60:
                    middle = r.nonzero()[r.sum() // 2]
                    seed = middle[:1] * SIZE + middle[1:]
                    grown = grow(features[b : b + 1], seed, shifts=1)[0, 0] > 0
                    found.append(((grown & r).sum() / (grown | r).sum()).item())
        return sum(found) / len(found)

    def lesson(n, random):
        return textured_leaves(images, 3, n, random)

    before = overlap()
    learn_grouping(net, lesson, config.augment, 100, seed=0, means=True)
    assert before < 0.15 and overlap() > 0.3


def test_a_run_learns_from_textures_if_asked(config, tmp_path):
    recipe = RecipeConfig(grouping_images=16, grouping_steps=3, grouping_from="textures")
    config = changed(dataclasses.replace(config, recipe=recipe), scenes__size=SIZE)
    trainer = make_trainer(config, tmp_path / "run")
    first = [p.clone() for p in trainer.learner.model.guide.attentions[0].parameters()]
    assert "from leaves with textures out of 16 images" in trainer.initialise()
    after = [*trainer.learner.model.guide.attentions[0].parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(after, first, strict=True))
