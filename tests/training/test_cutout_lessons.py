"""Objects cut out of images: which parts, edges without the ground, scenes made of them."""

import dataclasses

import pytest
import torch

from econ_pyro.config import RecipeConfig
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training import cutout_lessons
from econ_pyro.training.cutout_lessons import covered, cut_out
from econ_pyro.training.grouping import SLIVER
from helpers.trainers import changed, make_trainer, seeded_tiny

SIZE = 32
GREY, RED, BLUE = torch.full((3,), 0.3), torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 1])
PLACES = {"left": (4, 4), "right": (4, 20), "below": (20, 12)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def disc(y, x, radius=4.0):
    """Opacity of a disc with a soft edge, one pixel wide, ``(S, S)``."""
    at = torch.arange(SIZE) + 0.5
    away = ((at[:, None] - y - 4) ** 2 + (at - x - 4) ** 2).sqrt()
    return (radius + 0.5 - away).clamp(0, 1)


def painted(*discs, ground=GREY):
    """An image of discs, back to front."""
    image = ground[:, None, None].expand(3, SIZE, SIZE)
    for opacity, colour in discs:
        image = opacity * colour[:, None, None] + (1 - opacity) * image
    return image


def test_parts_of_an_image_that_may_be_objects():
    left, right, below = (disc(*place) for place in PLACES.values())
    wide = disc(4, 8)  # touches the left one
    images = torch.stack(
        [
            painted((left, RED), (right, BLUE), (below, RED)),  # as many as there can be
            painted((left, RED), (wide, BLUE), (below, RED)),  # two of three are one part
            painted((disc(4, 16), RED), (wide, BLUE), (right, RED)),  # all are one
            painted((disc(-2, 4), RED), (disc(4, 20, 3), BLUE)),  # one at the edge, a smaller one
            painted((disc(4, 4, 1.5), RED)),  # too small
        ]
    )
    cut = cut_out(images, 3)
    assert cut.image.tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert cut.sure.tolist() == [True, True, True, True, False, False, True]
    assert torch.equal(cut.ground, GREY.expand(5, 3))
    assert (cut.opacity[3] > 0.5).equal(below > 0.5)  # the smaller of the two
    assert (cut.opacity[4] > 0.5)[(left == 1) | (wide == 1)].all()  # both


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_edges_are_parted_from_the_ground(noise):
    opacity = disc(8, 12)
    image = painted((opacity, RED)) + noise * torch.randn(3, SIZE, SIZE, generator=generator())
    cut = cut_out(image[None], 1)
    assert len(cut.image) == 1 and cut.sure.all()
    inside = opacity > 0.3
    assert (cut.opacity[0] - opacity)[inside].abs().max() < 0.02 + 5 * noise
    assert (cut.colour[0] - RED[:, None, None]).abs()[:, inside].max() < 0.02 + 5 * noise
    again = GREY[:, None, None] + cut.opacity * (cut.colour[0] - GREY[:, None, None])
    assert (again - image).abs()[:, inside].max() < 1e-4 + 5 * noise


def test_pixels_inside_keep_their_colours():
    core = disc(8, 12, 2.0)  # nearer to the ground than what is around it
    image = painted((disc(8, 12), RED), (core, torch.full((3,), 0.4)))
    cut = cut_out(image[None], 1)
    assert torch.equal(cut.opacity[0][core > 0], torch.ones(int((core > 0).sum())))
    assert torch.equal(cut.colour[0][:, core > 0], image[:, core > 0])


@pytest.fixture
def many(monkeypatch):
    """Six images of one disc each, of one colour and ground that no other has."""
    monkeypatch.setattr(cutout_lessons, "LEAST", 1)
    values = torch.arange(1, 13) / 13
    return cut_out(
        torch.stack(
            [
                painted(
                    ((disc(8, 12) > 0.5).float(), RED * values[i]), ground=BLUE * values[-1 - i]
                )
                for i in range(6)
            ]
        ),
        1,
    )


def test_scenes_are_objects_over_one_another_on_a_ground(many):
    scenes = many.scenes(3, 80, generator())
    assert scenes.image.shape == (80, 3, SIZE, SIZE) and scenes.labels.shape == (80, SIZE, SIZE)
    area = int((many.opacity[0] > 0).sum())
    colours = (many.colour[:, :, 12, 16], many.ground)
    counts, turned, places, hidden = set(), 0, set(), 0
    for image, labels in zip(scenes.image, scenes.labels, strict=True):
        for layer in labels.unique().tolist():
            if layer < 0:
                continue
            own = image[:, labels == layer]
            assert (own - own[:, :1]).abs().max() < 1e-6  # one colour
            known = colours[0 if layer else 1]
            assert (known.sort(1).values - own[:, 0].sort().values).abs().sum(1).min() < 1e-6
            turned += bool((known - own[:, 0]).abs().sum(1).min() > 1e-3)
            if layer:
                shown = int((labels == layer).sum())
                assert SLIVER <= shown <= area
                hidden += shown < area
                places.add(tuple((labels == layer).nonzero().float().mean(0).int().tolist()))
        top = int(labels.max())
        assert int((labels == top).sum()) == area  # nothing is in front, and all is in the image
        counts.add(top)
    assert counts == {1, 2, 3} and len(places) > 50 and hidden > 10
    assert 40 < turned < 160  # of about 240 layers, five permutations of six in half of the scenes


def test_parts_that_one_region_covers_are_objects(many):
    own = many.opacity > 0.5
    half = own & (torch.arange(SIZE) < 16)

    def regions(image):
        each = torch.stack([own[image], ~own[image]], 1)
        each[image == 2] = torch.stack([half[2], own[2] & ~half[2]])
        return each[:, :, None].float()

    assert covered(many, regions).tolist() == [True, True, False, True, True, True]


def test_no_objects_to_cut_out(many):
    textured = torch.rand(4, 3, SIZE, SIZE, generator=generator())
    cut = cut_out(textured, 3)
    with pytest.raises(EconError, match="which nothing touches") as error:
        cut.some(cut.sure)
    assert "textures" in str(error.value)
    chosen = many.some(many.image < 2)
    assert len(chosen.colour) == len(chosen.opacity) == 2 and len(chosen.ground) == 6


@pytest.mark.parametrize("steps", [1, 6])
def test_a_run_learns_from_cutouts_if_asked(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(cutout_lessons, "LEAST", 1)
    monkeypatch.setattr(cutout_lessons, "COVERED", 0.0)
    recipe = RecipeConfig(grouping_images=30, grouping_steps=steps, grouping_from="cutouts")
    scenes = SceneConfig(background="grey", size=SIZE)
    config = seeded_tiny(shifts=1, learnt=2, salience="features")
    config = changed(config, model__size=SIZE, model__num_slots=4)
    trainer = make_trainer(dataclasses.replace(config, recipe=recipe, scenes=scenes), tmp_path)
    attentions = trainer.learner.model.guide.attentions
    first = [p.clone() for p in attentions[0].parameters()]
    assert "objects cut out of 30 images" in trainer.initialise()
    after = [*attentions[0].parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(after, first, strict=True))
    for network in list(attentions)[1:]:
        for a, b in zip(after, network.parameters(), strict=True):
            assert torch.equal(a, b)
