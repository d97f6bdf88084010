"""Composing: every edit against what it must do to the layers and to the picture."""

import base64
import io
import json
import zipfile

import pytest
import torch
from PIL import Image

import econ_pyro
from econ_pyro.errors import EconError
from econ_pyro.io import scene_file
from econ_pyro.io.scene_file import Layer, Scene
from econ_pyro.ui import markup, scene_edits
from econ_pyro.ui.scene_edits import (
    add,
    edit,
    move,
    random_scene,
    remove,
    replace_layer,
    sample_layer,
    set_latent,
    set_visible,
)
from helpers.pictures import BAD_UPLOADS, whole_png


@pytest.fixture
def econ(tiny):
    return econ_pyro.Econ(tiny, names=["sky", "disc", "<b>box</b>"])


@pytest.fixture
def scene():
    return Scene(16, tuple(Layer(k, (0.5, k - 1.0), background=k == 2) for k in range(3)))


def experts(scene):
    return [layer.expert for layer in scene.layers]


def test_moving_a_layer_permutes_and_stops_at_the_ends(scene):
    assert [experts(move(scene, i, by)[0]) for i, by in [(2, -1), (0, 1), (0, -1), (2, 5)]] == [
        [0, 2, 1], [1, 0, 2], [0, 1, 2], [0, 1, 2]
    ]  # fmt: skip
    assert [move(scene, i, by)[1] for i, by in [(2, -1), (0, 1), (0, -1), (0, 9)]] == [1, 1, 0, 2]
    assert experts(scene) == [0, 1, 2]


def test_hidden_layers_do_not_count_in_the_picture(econ, scene):
    hidden = econ.render(set_visible(scene, [0, 2])).image
    removed = econ.render(remove(scene, 1)).image
    assert torch.equal(hidden, removed)
    assert [layer.visible for layer in set_visible(scene, [0, 2]).layers] == [True, False, True]
    with pytest.raises(EconError, match="hide it instead"):
        remove(Scene(16, scene.layers[:1]), 0)


def test_turning_a_latent_leaves_the_others_to_the_last_bit():
    z = (0.1 + 0.2, -7.123456789012345)
    turned = set_latent(Scene(16, (Layer(0, z),)), 0, 0, 1.5).layers[0].z
    assert turned == (1.5, z[1])
    assert set_latent(Scene(16, (Layer(0, z),)), 0, 1, 1e30).layers[0].z[1] == scene_file.MAX_VALUE


def test_a_random_scene_is_that_of_sample(econ):
    canvas = econ.sample(1, slots=5, seed=11)
    scene = random_scene(econ, 11, 5)
    assert experts(scene) == canvas.k[0].tolist()
    assert torch.equal(torch.tensor([layer.z for layer in scene.layers]), canvas.z[0])
    assert [layer.background for layer in scene.layers] == [False] * 4 + [True]
    assert scene == random_scene(econ, 11.0, 5) != random_scene(econ, 12, 5)


@pytest.mark.parametrize("seed", [None, -1, 2**32, 0.5, float("nan"), float("inf"), "7"])
def test_bad_seeds(econ, seed):
    with pytest.raises(EconError, match="seed"):
        sample_layer(econ, 0, seed)


def test_adding_puts_a_layer_in_front(econ, scene):
    new = sample_layer(econ, 1, 3)
    assert add(scene, new).layers == (new, *scene.layers)
    full = Scene(16, (new,) * scene_file.MAX_LAYERS)
    with pytest.raises(EconError, match="remove one"):
        add(full, new)


class Squares:
    """Experts that draw a square of 4 pixels with its corner at z, to know where it must lie."""

    names = ["a", "b"]

    def __init__(self, config):
        self.config = config

    def render(self, scene):
        from econ_pyro.io import rendering

        return rendering.render(self, scene)

    def decode(self, z, k):
        shape = torch.zeros(len(z), 1, 16, 16)
        for i, (x, y) in enumerate(z.round().int().tolist()):
            shape[i, 0, max(y, 0) : y + 4, max(x, 0) : x + 4] = 1
        return shape.expand(-1, 3, -1, -1), shape


def test_a_swapped_object_lies_where_the_old_one_was(tiny, monkeypatch):
    class Model(Squares):
        config = tiny.model

    squares = Squares(tiny)
    squares.render = lambda scene: econ_pyro.io.rendering.render(Model(tiny.model), scene)
    monkeypatch.setattr(scene_edits, "sample_layer", lambda econ, k, seed: Layer(k, (2.0, 9.0)))
    old = Layer(0, (5.0, 1.0), dx=3.0, dy=2.0, visible=False)  # its corner lies at (8, 3)
    new = replace_layer(squares, Scene(16, (old,)), 0, 1, seed=0).layers[0]
    assert new == Layer(1, (2.0, 9.0), dx=6.0, dy=-6.0, visible=True)
    background = edit(Scene(16, (old,)), 0, background=True)
    assert replace_layer(squares, background, 0, 1, 0).layers[0] == Layer(
        1, (2.0, 9.0), background=True
    )


def test_walls_and_traversals_are_the_experts_own_pictures(econ):
    wall = scene_edits.expert_samples(econ, 4, 7)
    assert wall.shape == (3, 4, 4, 16, 16)
    single = econ.render(Scene(16, (sample_layer(econ, 2, 9),))).layers[0]
    torch.testing.assert_close(wall[2, 2], single)
    layer = Layer(1, (0.25, -0.5))
    rows = scene_edits.traverse(econ, layer, [-1.0, -0.5, 2.0])
    assert rows.shape == (2, 3, 4, 16, 16)
    same = econ.render(Scene(16, (layer,))).layers[0]
    torch.testing.assert_close(rows[1, 1], same)  # latent 2 at its own value


def test_files_hold_the_scene(econ, scene):
    moved = edit(scene, 0, dx=2.0, visible=False)
    content, mime = scene_edits.as_file(econ, moved, "scene.json")
    assert mime == "application/json"
    assert scene_file.parse_scene(json.loads(content), econ.names) == moved
    content, mime = scene_edits.as_file(econ, moved, "scene.png")
    with Image.open(io.BytesIO(content)) as picture:
        assert mime == "image/png" and picture.size == (16, 16)
    content, mime = scene_edits.as_file(econ, moved, "scene.ora")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("mimetype").decode() == mime == "image/openraster"
        assert archive.read("stack.xml").count(b"<layer ") == 3


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_bad_uploads_are_told_apart_without_the_folder(tmp_path, name):
    content, expected = BAD_UPLOADS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EconError) as told:
        scene_edits.read_upload(tmp_path / name, 16)
    assert expected in str(told.value) and name in str(told.value)
    assert str(tmp_path) not in str(told.value)


def test_a_good_upload_becomes_the_models_square(tmp_path):
    (tmp_path / "a.png").write_bytes(whole_png())
    image = scene_edits.read_upload(tmp_path / "a.png", 16)
    assert image.shape == (1, 3, 16, 16) and 0 <= image.min() <= image.max() <= 1


def test_words_from_outside_are_escaped(econ, scene):
    rendered = econ.render(scene)
    html = markup.layers(rendered, scene, econ.names, 0) + markup.message("<script>", True)
    html += markup.expert_samples(scene_edits.expert_samples(econ, 1, 0), econ.names)
    assert "<b>" not in html and "<script>" not in html
    assert html.count("&lt;b&gt;box&lt;/b&gt;") >= 3


def test_pictures_are_sent_in_their_own_pixels_and_enlarged_by_a_whole_factor(econ, scene):
    html = markup.pictures(econ.render(scene))
    assert f'width="{markup.IMAGE_WIDTH}" height="{markup.IMAGE_WIDTH}"' in html  # 16 x 16

    content = base64.b64decode(html.split("base64,")[1].split('"')[0])
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (16, 16)
