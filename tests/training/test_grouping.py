"""Features by which pixels group: what they learn from, the loss, and that it is learnt."""

import dataclasses

import pytest
import torch

from econ_pyro.config import AugmentConfig, RecipeConfig
from econ_pyro.core.compositing import with_log
from econ_pyro.core.corruptions import take_colour
from econ_pyro.core.distributions import PixelNoise
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.guides.region_growing import grow, logits_around
from econ_pyro.guides.seeded import SeededUNet, SeedsAlone
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training import grouping
from econ_pyro.training.grouping import (
    Layers,
    draw_pixels,
    grouping_loss,
    layers_by_colour,
    learn_grouping,
)
from helpers.trainers import changed, make_trainer, seeded_tiny, taught_tiny

SIZE = 32


@pytest.fixture
def config():
    """Attention that groups by colour alone, before it has learnt."""
    config = seeded_tiny(bias=0.0, place_weight=0.0, channels=(8, 16), hidden=32)
    return changed(config, model__size=SIZE, model__num_slots=4)


@pytest.fixture
def seeds(config):
    econ = Econ(config)
    return SeedsAlone(econ.guide, econ.sizes.expert.attention)


def scene():
    """A red and a green square, a thin blue line, and a dot, on grey; layers of all pixels."""
    x = torch.full((1, 3, SIZE, SIZE), 0.5)
    index = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    for where, colour, layer in [
        ((slice(4, 12), slice(4, 12)), (0.9, 0.1, 0.1), 1),
        ((slice(16, 26), slice(16, 24)), (0.1, 0.9, 0.1), 2),
        ((slice(28, 29), slice(2, 30)), (0.1, 0.1, 0.9), -1),
        ((slice(2, 4), slice(28, 30)), (0.9, 0.9, 0.1), -1),
    ]:
        x[0, :, where[0], where[1]] = torch.tensor(colour)[:, None, None]
        index[0][where] = layer
    return x, index


def test_objects_are_what_colour_tells_apart(seeds):
    x, expected = scene()
    found = layers_by_colour(x, seeds, 5, PixelNoise(0.05))
    assert torch.equal(found.labels > 0, expected > 0)
    assert torch.equal(found.labels < 0, expected < 0)  # neither objects nor background
    one, other = found.labels[0, 5, 5], found.labels[0, 20, 20]
    assert {one.item(), other.item()} == {1, 2}
    r = found.regions(3)[0, :, 0]
    assert torch.equal(r[0], (found.labels[0] == 1).float())
    assert torch.equal(r[2], (found.labels[0] <= 0).float()) and torch.equal(
        r.sum(0), r[0] * 0 + 1
    )


def test_what_light_explains_is_no_object(seeds):
    x, _ = scene()
    x[0, :, 4:12, 4:12] = 0.4  # a shadow
    plain = layers_by_colour(x, seeds, 5, PixelNoise(0.05)).labels
    lit = layers_by_colour(x, seeds, 5, PixelNoise(0.05, light=0.5)).labels
    assert (plain[0, 4:12, 4:12] > 0).all() and not lit[0, 4:12, 4:12].any()
    assert (lit[0, 16:26, 16:24] > 0).all()


def network(config, seed=0):
    torch.manual_seed(seed)
    return SeededUNet(config.model.expert, SIZE)


@pytest.mark.parametrize("means", [False, True])
def test_the_loss_is_that_of_a_loop_over_pixels(config, means):
    net = network(config).double()
    x, index = (a.repeat(2, *[1] * (a.dim() - 1)) for a in scene())
    index[:, 4:6, 4:12] = -1  # like an object, but nobody knows
    x = (
        x + 0.1 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    ).double()
    pixels = torch.tensor([[7 * SIZE + 5, 0], [20 * SIZE + 20, 31 * SIZE + 31]])
    loss = grouping_loss(net, x, index, pixels, means)
    loss.backward()
    ours = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    features, total = net(with_log(x, torch.ones_like(x[:, :1]))), 0.0
    for b in range(2):
        for i, p in enumerate(pixels[b].tolist()):
            a = grow(features[b : b + 1], torch.tensor([p]))[0, 0].sigmoid()
            own = index[b] == index[b].flatten()[p]
            if means and i == 1:
                middle = features[b, 1:, own].mean(1)[None]
                a = logits_around(middle, features[b : b + 1])[0, 0].sigmoid()
            for i in range(SIZE):
                for j in range(SIZE):
                    if index[b, i, j] >= 0:
                        chance = a[i, j] if own[i, j] else 1 - a[i, j]
                        total = total - chance.log() / own.sum()
    total = total / 4
    torch.testing.assert_close(loss, total)
    total.backward()
    theirs = [p.grad for p in net.parameters() if p.grad is not None]
    assert len(ours) == len(theirs) > 4
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_pixels_are_of_every_layer_alike_and_never_of_none():
    _, index = scene()
    index = index.expand(500, -1, -1)
    pixels = draw_pixels(index, torch.Generator().manual_seed(0))
    of = index.flatten(1).gather(1, pixels).flatten()
    counts = torch.bincount(of + 1, minlength=4)
    assert counts[0] == 0
    assert (counts[1:] / len(of) - 1 / 3).abs().max() < 0.03


def test_objects_without_colour_are_found_once_it_is_learnt(config, seeds, monkeypatch):
    monkeypatch.setattr(grouping, "SMALLEST", 10)
    scenes = SceneConfig(size=SIZE, objects=2, background="grey")
    images = GeneratedScenes(scenes, 0, 128).images(torch.arange(128))
    layers = layers_by_colour(images, seeds, 4, PixelNoise(0.1))
    net, kept = network(config), torch.get_rng_state()
    augmented = AugmentConfig(share=1.0, grey=1.0)
    unseen = GeneratedScenes(scenes, 1, 40).scenes(torch.arange(40))
    index = (unseen.layers(3)[:, :, 0].argmax(1) + 1) % 3
    r = Layers(unseen.image, index).regions(3)
    grey = take_colour(unseen.image, r, 1.0, torch.Generator().manual_seed(5))
    pixels = draw_pixels(index, torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = grouping_loss(net, grey, index, pixels)
    learnt = learn_grouping(net, layers.some, augmented, 120, seed=0)
    assert torch.equal(torch.get_rng_state(), kept)
    with torch.no_grad():
        after = grouping_loss(net, grey, index, pixels)
    assert after < 0.8 * before and learnt < 0.3 * before  # nats; most objects have a colour


def test_the_same_seed_teaches_the_same(config):
    layers, augmented = Layers(*scene()), AugmentConfig(share=1.0, grey=1.0, noise=0.1)
    one, other, third = (
        learn_grouping(network(config), layers.some, augmented, 3, seed) for seed in (0, 0, 1)
    )
    assert one == other != third


@pytest.mark.parametrize("frozen", [0, 2])
def test_all_experts_group_alike(config, tmp_path, frozen):
    """Those that stay fixed in training, too."""
    recipe = RecipeConfig(grouping_images=16, grouping_steps=3)
    config = dataclasses.replace(config, recipe=recipe, augment=AugmentConfig(grey=1.0))
    config = changed(config, scenes__size=SIZE, train__frozen=frozen)
    trainer = make_trainer(config, tmp_path / "run")
    first = [p.clone() for p in trainer.learner.model.guide.attentions[0].parameters()]
    done = trainer.initialise()
    assert "group pixels from" in done and "in 16 images" in done
    attentions = [[*a.parameters()] for a in trainer.learner.model.guide.attentions]
    for others in attentions[1:]:
        assert all(torch.equal(a, b) for a, b in zip(attentions[0], others, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(attentions[0], first, strict=True))
    assert all(p.grad is None for p in attentions[0])
    fixed = [not any(p.requires_grad for p in a) for a in attentions]
    assert fixed == [k < frozen for k in range(3)]


def test_what_was_learnt_stays_as_long_as_it_is_asked_to(config, tmp_path):
    config = changed(
        dataclasses.replace(config, recipe=RecipeConfig(grouping_fixed_until="50%")),
        train__steps=4,
    )
    learner = make_trainer(config, tmp_path / "run").learner
    attentions, decoders = learner.model.guide.attentions, learner.model.model.decoders
    start = [p.clone() for p in attentions.parameters()]
    drawn = [p.clone() for p in decoders.parameters()]

    def same(values, networks):
        return all(torch.equal(a, b) for a, b in zip(values, networks.parameters(), strict=True))

    images = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for step in range(4):
        learner.step(images, None, step)
        assert same(start, attentions) == (step < 2)
    assert not same(drawn, decoders)


def test_experts_with_features_do_not_learn_to_group_again(config):
    recipe = RecipeConfig(grouping_images=16)
    econ = Econ(dataclasses.replace(config, recipe=recipe, augment=AugmentConfig(grey=1.0)))
    one = econ.with_experts([1])
    assert one.config.recipe.grouping_images == 0 and not one.config.augment.kinds


def test_what_has_no_features_cannot_group():
    with pytest.raises(
        EconError, match=r"kind seeded, .* got unet: add --recipe.grouping-images 0"
    ):
        dataclasses.replace(taught_tiny(), recipe=RecipeConfig(grouping_images=8))
    with pytest.raises(
        EconError, match=r"e-step or recipe.grouping-images, without which nothing"
    ):
        dataclasses.replace(seeded_tiny(), augment=AugmentConfig(grey=1.0))
