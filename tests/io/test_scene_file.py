"""Editable scenes: what the file may hold, and the picture that it makes."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.io import rendering, scene_file
from econ_pyro.io.scene_file import Layer, Scene

NAMES = ["circle", "square", "background"]
GOOD = {
    "version": 1, "width": 16, "height": 16, "source": "a.png",
    "layers": [
        {"expert": "circle", "z": [0.5, -1], "dx": 2, "dy": -1.5, "visible": False},
        {"expert": 2, "z": [0, 0.25], "background": True, "class": "background", "scores": [1.0]},
    ],
}  # fmt: skip


@pytest.fixture
def econ(tiny):
    expert = dataclasses.replace(tiny.model.expert, shape_bias=0.0)
    return Econ(dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, expert=expert)))


def scene(*layers, size=16):
    return Scene(size, tuple(layers))


def edited(path, value):
    """GOOD with another value at a path of keys; a value of ... takes the key out."""
    good = json.loads(json.dumps(GOOD))
    inner = good
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return good


def test_a_scene_is_read_and_written():
    read = scene_file.parse_scene(GOOD, NAMES)
    assert read == scene(
        Layer(0, (0.5, -1.0), 2.0, -1.5, visible=False), Layer(2, (0.0, 0.25), background=True)
    )
    text = json.dumps(scene_file.to_json(read))
    assert scene_file.parse_scene(json.loads(text), NAMES) == read


FIRST = ("layers", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("layers",), ..., 'expected a scene: an object with a list "layers", got {"version": 1'),
        (("version",), ..., '"version": 1 in the scene, got none'),
        (("version",), 2, '"version": 1 in the scene, got 2'),
        (("width",), ..., '"width" in the scene, got only height, layers, source, version'),
        (("width",), 32, "a square scene, got 32 x 16 pixels"),
        (("layers",), [], "1 to 256 layers in the scene, got 0"),
        (FIRST, 3, "layer 1 as an object, got 3"),
        ((*FIRST, "expert"), ..., '"expert" in layer 1, got only dx, dy, visible, z'),
        ((*FIRST, "expert"), "horse", "an expert of layer 1 from circle, square, background"),
        ((*FIRST, "expert"), 1.5, 'a whole number "expert" of layer 1, got 1.5'),
        ((*FIRST, "expert"), True, 'a whole number "expert" of layer 1, got true'),
        ((*FIRST, "expert"), -1, 'a whole number "expert" of layer 1, got -1'),
        ((*FIRST, "z"), ..., '"z" in layer 1'),
        ((*FIRST, "z"), 1, 'a list of numbers "z" of layer 1, got 1'),
        ((*FIRST, "z"), [0, float("nan")], 'in "z" of layer 1, got NaN'),
        ((*FIRST, "z"), [0, "a"], 'in "z" of layer 1, got "a"'),
        ((*FIRST, "dx"), float("inf"), 'from -1e6 to 1e6 in "dx" of layer 1, got Infinity'),
        ((*FIRST, "dy"), None, 'in "dy" of layer 1, got null'),
        ((*FIRST, "visible"), 1, 'true or false for "visible" of layer 1, got 1'),
        ((*FIRST, "visable"), True, "among expert, z, dx, dy, visible, background, got 'visable'"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(path, value, message):
    with pytest.raises(EconError) as error:
        scene_file.parse_scene(edited(path, value), NAMES)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, "\ufeff"])
def test_what_is_no_json_is_said(tmp_path, text):
    path = tmp_path / "scene.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EconError, match="JSON in .*scene.json"):
        scene_file.read_scene(path, NAMES)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (scene(Layer(0, (0.0, 0.0)), size=32), "a scene of 16 pixels, .* got 32"),
        (scene(), "at least one layer"),
        (scene(Layer(3, (0.0, 0.0))), "an expert of layer 1 from 0 to 2, got 3"),
        (scene(Layer(0, (0.0, 0.0)), Layer(0, (0.0,))), "2 numbers in z of layer 2, got 1"),
    ],
)
def test_a_scene_of_another_model_is_said(econ, bad, message):
    with pytest.raises(EconError, match=message):
        econ.render(bad)


def test_painting_against_a_loop_over_pixels(econ):
    layers = [Layer(0, (0.5, 1.0)), Layer(1, (2.0, 0.0), visible=False), Layer(1, (-1.0, 0.3))]
    background = Layer(2, (0.1, 0.1), background=True)
    for chosen in (layers, [*layers, background]):
        painted = econ.render(scene(*chosen))
        want, cover = np.zeros((3, 16, 16)), np.zeros((16, 16))
        for layer in reversed([x for x in chosen if x.visible]):
            with torch.no_grad():
                z, k = torch.tensor([layer.z]), torch.tensor([layer.expert])
                mean, shape = (a[0].double().numpy() for a in econ.model.decode(z, k))
            m = np.ones((16, 16)) if layer.background else shape[0]
            want, cover = m * mean + (1 - m) * want, m + (1 - m) * cover
        image = painted.image.double().numpy()
        np.testing.assert_allclose(image[3], cover, atol=1e-5)
        np.testing.assert_allclose(image[:3] * image[3], want, atol=1e-5)
        assert len(painted.stages) == len(chosen) - 1  # one is hidden
    assert image[3].min() > 1 - 1e-6


def test_nothing_shown_is_transparent(econ):
    painted = econ.render(scene(Layer(0, (0.0, 0.0), visible=False)))
    assert painted.image.shape == (4, 16, 16) and not painted.image.any()


def test_shift_by_whole_pixels_against_numpy_and_by_fractions_between():
    x = torch.rand(2, 7, 9)
    for dx, dy in ((0, 0), (3, -2), (-4, 1), (20, 0), (0, -30)):
        padded = np.pad(x.numpy(), ((0, 0), (40, 40), (40, 40)))
        edged = np.pad(x.numpy(), ((0, 0), (40, 40), (40, 40)), mode="edge")
        rows, columns = slice(40 - dy, 47 - dy), slice(40 - dx, 49 - dx)
        assert np.array_equal(rendering.shift(x, dx, dy).numpy(), padded[:, rows, columns])
        repeated = rendering.shift(x, dx, dy, repeat=True).numpy()
        assert np.array_equal(repeated, edged[:, rows, columns])
    a, b = rendering.shift(x, 2, 0), rendering.shift(x, 3, 0)
    torch.testing.assert_close(rendering.shift(x, 2.25, 0), 0.75 * a + 0.25 * b)
    assert torch.equal(rendering.shift(x, 1e6, 0), torch.zeros_like(x))


def test_a_moved_object_keeps_its_look_and_a_background_has_no_gap(econ):
    still, moved = (
        econ.render(scene(Layer(0, (0.5, 1.0), dx), Layer(2, (0.0, 0.0), dx, background=True)))
        for dx in (0.0, 5.0)
    )
    assert torch.equal(moved.layers[0, :, :, 5:], still.layers[0, :, :, :-5])
    assert not moved.shape[0, :, :, :5].any()
    assert torch.equal(moved.mean[1, :, :, 5:], still.mean[1, :, :, :-5])
    assert torch.equal(moved.mean[1, :, :, :5], still.mean[1, :, :, :1].expand(-1, -1, 5))
    assert moved.image[3].min() > 1 - 1e-6


def test_scene_of_a_decomposition_shows_what_is_there(econ):
    d = econ.decompose(torch.rand(1, 3, 16, 16))
    region = torch.zeros(1, 3, 1, 16, 16)
    region[0, 1, :, :, :9], region[0, 2, :, :, 9:] = 1, 1
    found = scene_file.of_decomposition(dataclasses.replace(d, region=region))
    assert [layer.visible for layer in found.layers] == [False, True, True]
    assert [layer.background for layer in found.layers] == [False, False, True]
    assert [list(layer.z) for layer in found.layers] == d.z[0].tolist()
