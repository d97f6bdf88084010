"""Painted scenes as files: one over the other they are the picture, shown layers alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.errors import EconError
from econ_pyro.io.layer_files import check_formats, to_bytes, write_rendered
from econ_pyro.io.rendering import RenderedScene
from econ_pyro.io.scene_file import Layer, Scene

NAMES = ["a", "b", "c", "d", "e"]


def soft_scene(seed, visible, background=True, size=33):
    """Layers with soft shapes, of which a third are fully there and a third not at all."""
    generator = torch.Generator().manual_seed(seed)
    n = len(visible)
    mean = torch.rand(n, 3, size, size, generator=generator)
    shape = (torch.rand(n, 1, size, size, generator=generator) * 3 - 1).clamp(0, 1)
    if background:
        shape[-1] = 1
    layers = tuple(Layer(i, (0.0,), visible=v) for i, v in enumerate(visible))
    return Scene(size, layers), RenderedScene(mean, shape, tuple(visible))


def read(path):
    with Image.open(path) as file:
        return np.asarray(file.convert("RGBA")), file.mode


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("visible", [(True,) * 5, (False, True, False, True, True), (False,) * 3])
def test_layer_files_give_the_composed_picture(tmp_path, visible, background):
    scene, rendered = soft_scene(len(visible), visible, background)
    write_rendered(tmp_path, scene, rendered, NAMES, ("png", "ora"))
    canvas = Image.new("RGBA", (33, 33))
    for i in reversed(range(len(visible))):
        layer = Image.open(tmp_path / f"layer-{i + 1}.png")
        assert layer.mode == "RGBA"
        if not visible[i]:
            assert not np.asarray(layer).any()
        canvas.alpha_composite(layer)
    composed, mode = read(tmp_path / "composed.png")
    assert np.array_equal(np.asarray(canvas), composed)
    assert mode == ("RGB" if background and visible[-1] else "RGBA")
    want = to_bytes(rendered.image).astype(int)
    weight = want[..., 3:] / 255  # of what is hardly there, the colour is hardly known
    assert (abs(composed[..., :3] - want[..., :3]) * weight).max() <= 2
    assert abs(composed[..., 3] - want[..., 3]).max() <= 1
    # where one layer alone is seen, its bytes
    mean, shape = rendered.mean[list(visible)], rendered.shape[list(visible)][:, 0]
    for i in range(len(mean)):
        alone = ((shape[:i] == 0).all(0) & (shape[i] == 1)).numpy()
        assert np.array_equal(composed[alone][:, :3], to_bytes(mean[i])[alone])


def test_one_more_layer_that_is_hidden_changes_nothing(tmp_path):
    scene, rendered = soft_scene(0, (True, True, False))
    write_rendered(tmp_path / "a", scene, rendered, NAMES)
    fewer = replace(scene, layers=scene.layers[:2])
    rest = RenderedScene(rendered.mean[:2], rendered.shape[:2], (True, True))
    write_rendered(tmp_path / "b", fewer, rest, NAMES)
    for name in ("composed.png", "layer-1.png", "layer-2.png", "build-up.gif"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("formats", [(), ("png", "png"), ("png", "ora", "png")])
def test_formats_are_given_once(formats):
    with pytest.raises(EconError, match="each once, for --format"):
        check_formats(formats)
