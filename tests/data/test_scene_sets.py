"""Scenes that re-create the field's sets, against what their records show."""

import colorsys
import dataclasses
import math

import numpy as np
import pytest
import torch

from econ_pyro.data.synthetic.dataset import StoredScenes
from econ_pyro.data.synthetic.layout import colours
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.errors import EconError
from econ_pyro.presets import PRESETS
from econ_pyro.scene_config import SCENE_SETS, SceneConfig
from scripts import make_dataset

# written down from pictures of records; in capitals are classes of which one is the mirror image
FORMS = {
    "I": "####",
    "O": "##/##",
    "T": "###/.#.",
    "S": ".##/##.",
    "Z": "##./.##",
    "J": ".#/.#/##",
    "L": "#./#./##",
}
BLOCK = [[191, 255, 255, 255, 223]] + 3 * [[127, 159, 159, 159, 191]] + [[95, 63, 63, 63, 127]]


def render(config, n, seed=0):
    return SceneRenderer(config, seed).render(torch.arange(n))


def cells(mask):
    """The cells of a piece: every fifth pixel of its bounding box."""
    y, x = np.nonzero(mask)
    box = mask[y.min() : y.max() + 1, x.min() : x.max() + 1]
    assert box.shape[0] % 5 == box.shape[1] % 5 == 0
    small = box[::5, ::5]
    assert (np.kron(small, np.ones((5, 5), bool)) == box).all()
    return small


def test_tetrominoes_are_whole_apart_and_of_their_class():
    config = SCENE_SETS["tetrominoes"]
    scenes = render(config, 300)
    masks = scenes.mask.numpy()
    assert masks.shape == (300, 3, 40, 40) and (masks.sum((2, 3)) == 100).all()
    assert masks.sum(1).max() == 1 and torch.equal(scenes.mask, scenes.region)
    frame = np.zeros((40, 40), bool)
    frame[2:37, 2:37] = True
    assert not (masks & ~frame).any()
    # each row and column of the frame is reached: places are not on a grid
    assert (masks.any((0, 1)) == frame).all()
    seen = set()
    for mask, label in zip(
        masks.reshape(-1, 40, 40), scenes.label.flatten().tolist(), strict=True
    ):
        name = config.classes[label]
        form = np.array([[c == "#" for c in row] for row in FORMS[name].split("/")])
        found = cells(mask)
        assert any(np.array_equal(found, np.rot90(form, k)) for k in range(4)), name
        seen.add((name, found.shape, found.tobytes()))
    assert len(seen) == 19
    # of each class as many as it has orientations
    counts = np.bincount(scenes.label.flatten().numpy())
    expected = 900 * np.array([2, 1, 4, 2, 2, 4, 4]) / 19
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_blocks_are_bevelled_in_six_colours():
    scenes = render(SCENE_SETS["tetrominoes"], 40)
    image = (scenes.image * 255).round().int()
    assert (image.permute(0, 2, 3, 1)[~scenes.mask.any(1)] == 0).all()
    found = set()
    for b, n in np.ndindex(40, 3):
        y, x = np.nonzero(scenes.mask[b, n].numpy())
        channels = image[b, :, y, x]
        bright = channels.amax(0)
        colour = tuple((channels.sum(1) > 0).int().tolist())
        found.add(colour)
        assert (channels == torch.tensor(colour)[:, None] * bright).all()
        assert scenes.colour[b, n].tolist() == [255 * c for c in colour]
        small = cells(scenes.mask[b, n].numpy())
        whole = np.kron(small, np.array(BLOCK))  # row by row as nonzero() lists them
        assert bright.tolist() == whole[np.kron(small, np.ones((5, 5), bool)) > 0].tolist()
    white = (1, 1, 1)
    assert found == {c for c in np.ndindex(2, 2, 2) if any(c)} - {white}


def test_pose_of_tetrominoes():
    scenes = render(SCENE_SETS["tetrominoes"], 50)
    for b, n in np.ndindex(50, 3):
        y, x = np.nonzero(scenes.mask[b, n].numpy())
        centre = [(x.min() + x.max() + 1) / 2, (y.min() + y.max() + 1) / 2]
        assert scenes.position[b, n].tolist() == centre
        assert scenes.side[b, n] == max(np.ptp(x), np.ptp(y)) + 1
    assert set((scenes.angle / (math.pi / 2)).flatten().tolist()) == {0, 1, 2, 3}
    still = render(dataclasses.replace(SCENE_SETS["tetrominoes"], rotate=False), 50)
    assert (still.angle == 0).all()
    assert len({cells(m).tobytes() + bytes(cells(m).shape) for m in still.mask.numpy()[:, 0]}) <= 7


def test_the_small_picture_is_the_centre_of_the_large_one():
    large = SCENE_SETS["tetrominoes"]
    small = dataclasses.replace(large, size=32)
    whole, centre = (render(config, 20) for config in (large, small))
    torch.testing.assert_close(whole.image[:, :, 4:36, 4:36], centre.image, rtol=0, atol=0)
    assert torch.equal(whole.mask[:, :, 4:36, 4:36], centre.mask)


def test_tetrominoes_near_the_background_and_fewer_of_them():
    near = dataclasses.replace(SCENE_SETS["tetrominoes"], near_background=64, min_objects=0)
    scenes = render(near, 100)
    assert 0 < scenes.image.max() * 255 <= 64
    assert set(scenes.count.tolist()) == {0, 1, 2, 3}
    assert torch.equal(scenes.mask.flatten(2).any(2), scenes.label >= 0)
    assert render(dataclasses.replace(near, objects=0), 2).mask.shape == (2, 0, 40, 40)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("multi-dsprites", {2, 3, 4, 5}), ("multi-dsprites-coloured", {1, 2, 3, 4})],
)
def test_sprites_of_all_sizes_and_angles(name, counts):
    scenes = render(SCENE_SETS[name], 200)
    assert scenes.image.shape == (200, 3, 64, 64)
    assert set(scenes.count.tolist()) == counts
    here = scenes.label >= 0
    assert set(scenes.label[here].tolist()) == {0, 1, 2}
    side, angle = scenes.side[here], scenes.angle[here]
    assert 9 <= side.min() < 9.5 and 17.5 < side.max() <= 18
    assert angle.min() < 0.3 and angle.max() > 2 * math.pi - 0.3
    grey = (scenes.background == scenes.background[:, :1]).all(1)
    assert grey.all() if name == "multi-dsprites" else grey.sum() < 5
    assert scenes.background.float().std(0).min() > 60  # 255 / sqrt(12) is 74
    assert scenes.colour[here].max() > 250 and scenes.colour[here].min() < 5


def test_hue_saturation_and_value_are_uniform():
    rng = np.random.default_rng(0)
    hsv = np.stack([rng.integers(n, size=500) for n in (1530, 256, 256)], 1)
    # the smallest random bits that give these integers
    u = -(-(hsv.astype(np.int64) << 32) // np.array([1530, 256, 256]))
    got = colours(SCENE_SETS["multi-dsprites"], torch.zeros(1, 3), torch.zeros(1), torch.tensor(u))
    for (h, s, v), colour in zip(hsv, got.tolist(), strict=True):
        expected = 255 * np.array(colorsys.hsv_to_rgb(h / 1530, s / 255, v / 255))
        assert np.abs(expected - colour).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("name", SCENE_SETS)
def test_a_scene_depends_on_its_number_alone(name):
    renderer = SceneRenderer(SCENE_SETS[name], 3)
    together = renderer.render(torch.arange(20))
    alone = renderer.render(torch.tensor([17, 4]))
    for part in dataclasses.fields(together):
        assert torch.equal(getattr(together, part.name)[[17, 4]], getattr(alone, part.name))
    assert torch.equal(renderer.render_images(torch.tensor([4])), alone.image[1:])


@pytest.mark.parametrize("kind", ["multi-dsprites", "tetrominoes"])
def test_datasets_of_the_usual_scenes(tmp_path, kind):
    make_dataset.main([str(tmp_path / "set"), "--kind", kind, "--n", "6", "--n-valid", "2"])
    stored = StoredScenes(tmp_path / "set")
    config = SCENE_SETS[kind]
    assert stored.size == config.size and stored.classes == config.classes
    expected, found = render(config, 6), stored.scenes(torch.arange(6))
    assert torch.equal(found.image, expected.image) and torch.equal(found.mask, expected.mask)
    options = [f"--kind={kind}", "--objects", "3", "--min-objects", "3", "--n", "4"]
    make_dataset.main([str(tmp_path / "three"), *options, "--n-valid", "1"])
    three = StoredScenes(tmp_path / "three").scenes(torch.arange(4))
    assert (three.count == 3).all()
    assert kind in PRESETS and PRESETS[kind][1].scenes == config


@pytest.mark.parametrize(("change", "message"), [
    ({"size": 64}, "32 or 40 pixels for tetrominoes, got 64: 40 shows the whole frame"),
    ({"objects": 6}, "at most 5 tetrominoes, for which there is room, got 6"),
    ({"classes": ("I", "circle")}, "classes among I, O, T, S, Z, J, L, got 'circle': the preset"),
    ({"sprites": "folder"}, "tetrominoes without sprites, got folder"),
])  # fmt: skip
def test_wrong_tetrominoes(change, message):
    with pytest.raises(EconError, match=message):
        dataclasses.replace(SCENE_SETS["tetrominoes"], **change)


def test_tetrominoes_are_no_shapes():
    with pytest.raises(EconError, match="classes among I, .* got 'circle': the preset tetromin"):
        SceneConfig(kind="tetrominoes", size=40)
    with pytest.raises(EconError, match="classes among circle, .* got 'I'"):
        SceneConfig(classes=("I",))
