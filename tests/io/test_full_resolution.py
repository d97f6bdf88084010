"""Layers in a picture's own pixels: geometry, and the picture given back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from econ_pyro.core.distributions import PixelNoise
from econ_pyro.data import images
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.infer.elbo import Terms
from econ_pyro.io import full_resolution, scene_file
from econ_pyro.io.layer_files import write_layers
from econ_pyro.io.openraster import merge, on_canvas
from econ_pyro.io.rendering import RenderedScene
from econ_pyro.scene_config import SceneConfig
from econ_pyro.ui import scene_edits
from helpers.decompositions import made_up

NAMES = ["circle", "square", "background"]


def stacked(folder, n):
    """The PNG files one over the other, in floats, rounded at the end; alpha last."""
    colour, alpha = 0.0, 0.0
    for i in range(n, 0, -1):
        with Image.open(folder / f"layer-{i}.png") as file:
            pixels = np.asarray(file).astype(float)
        a = pixels[..., 3:] / 255
        colour, alpha = pixels[..., :3] * a + colour * (1 - a), a + alpha * (1 - a)
    colour = colour / np.where(alpha, alpha, 1)
    return np.concatenate([colour, 255 * alpha], -1).round().astype(int)


def layers_of(picture, d, fit="crop", hidden=()):
    scene = scene_file.of_decomposition(d)
    for i in hidden:
        scene = scene_edits.edit(scene, i, visible=False)
    shape = d.shape[0].clone()
    shape[[layer.background for layer in scene.layers]] = 1
    rendered = RenderedScene(d.mean[0], shape, tuple(layer.visible for layer in scene.layers))
    layers = full_resolution.full_resolution_layers(
        picture, d, scene, rendered, NAMES, PixelNoise(0.1), fit
    )
    return layers, scene


@pytest.mark.parametrize("fit", ["crop", "resize"])
@pytest.mark.parametrize("hidden", [(), (0,), (1, 2)])
@pytest.mark.parametrize("shape", [(40, 40), (31, 50), (64, 33), (9, 12), (16, 17)])
def test_layers_together_give_the_picture_back(shape, fit, hidden, tmp_path):
    torch.manual_seed(sum(shape))
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    d = made_up(1, layers=4)
    layers, _ = layers_of(picture, d, fit, hidden)
    merged = np.asarray(merge(layers, shape[1], shape[0])).astype(int)
    write_layers(tmp_path, layers, shape[1], shape[0])
    files = stacked(tmp_path, len(layers))
    inside = np.zeros(shape, bool)
    side = min(shape)
    top, left = ((n - side) // 2 for n in shape)
    if fit == "crop":
        inside[top : top + side, left : left + side] = True
    else:
        inside[:] = True
    assert (merged[inside][:, 3] == 255).all() and not merged[~inside].any()
    assert np.array_equal(merged[inside][:, :3], picture[inside])
    # layers that are not shown: as a program sees them that knows no visibility
    assert np.array_equal(files[inside][:, :3], picture[inside]) and not files[~inside].any()
    assert (files[inside][:, 3] == 255).all()


@pytest.mark.parametrize("size", [(40, 30), (31, 50), (17, 16), (16, 16)])
def test_the_crop_is_pillows(size, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    want = ImageOps.fit(picture, (16, 16), Image.Resampling.NEAREST)
    got = images.decode(tmp_path / "a.png", 16, "crop", "nearest")
    assert np.array_equal(got, np.asarray(want))


def true_scene(size, index):
    """One scene of the same geometry at any size: front to back masks, regions, colours."""
    scenes = SceneRenderer(SceneConfig(size=size), seed=3).render(torch.tensor([index]))
    n = int(scenes.count[0])
    masks = torch.cat([scenes.mask[0, :n], torch.ones(1, size, size, dtype=torch.bool)])
    regions = torch.cat([scenes.region[0, :n], scenes.background_region])
    colours = torch.cat([scenes.colour[0, :n], scenes.background]).float() / 255
    return scenes, masks, regions, colours


def test_true_layers_at_the_models_size_become_true_layers_at_full_size():
    _, masks, regions, colours = true_scene(32, 0)
    large, true_masks, true_regions, _ = true_scene(128, 0)
    t = len(masks)
    mean = colours[:, :, None, None].expand(-1, -1, 32, 32)
    d = replace(
        made_up(1, layers=t, size=32),
        region=regions[None, :, None].float(),
        shape=masks[None, :, None].float(),
        mean=mean[None],
        terms=Terms(*torch.zeros(3, 1, t)),
    )
    picture = (large.image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    wide = np.zeros((128, 200, 3), np.uint8)  # the scene in the middle of a wide picture
    wide[:, 36:164] = picture
    layers, scene = layers_of(wide, d)
    assert [layer.visible for layer in scene.layers] == [True] * t
    for layer, mask, region, colour in zip(layers, true_masks, true_regions, colours, strict=True):
        pixels = on_canvas(layer, 200, 128)[:, 36:164]
        found = pixels[..., 3] > 127
        iou = (found & mask.numpy()).sum() / (found | mask.numpy()).sum()
        assert iou > 0.9  # a pixel of the small masks is 4 x 4 here: alone they give 0.86
        hidden = found & ~region.numpy() & mask.numpy()
        seen = found & region.numpy()
        assert np.array_equal(pixels[seen][:, :3], picture[seen])
        if hidden.any():  # away from the edge of what hides it, the decoder's colour
            off = abs(pixels[hidden][:, :3] - (colour * 255).numpy()).max(1)
            assert np.median(off) <= 1


def test_small_shares_are_not_seen_and_the_rest_sums_to_one():
    region = torch.tensor([[0.95, 0.5, 0.02], [0.05, 0.5, 0.98]])[:, None]
    shares = full_resolution._thresholded(region)
    assert shares[:, 0].tolist() == [[1, 0.5, 0], [0, 0.5, 1]]


def test_rows_at_a_time_are_all_at_once(monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (37, 23, 3), dtype=np.uint8)
    d = made_up(1, layers=4)
    whole, _ = layers_of(picture, d, "resize")
    for band in (1, 23 * 5):
        monkeypatch.setattr(full_resolution, "BAND", band)
        parts, _ = layers_of(picture, d, "resize")
        for a, b in zip(whole, parts, strict=True):
            assert (abs(a.pixels.astype(int) - b.pixels) <= 1).all() and a.name == b.name
