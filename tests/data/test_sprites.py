"""Scenes of sprites against a float64 painter that samples the files themselves."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from econ_pyro.data.synthetic.dataset import StoredScenes, write_dataset
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.data.synthetic.sprites import find_sprites
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig

FINE = 8  # the painter's samples on each side of a pixel


def picture(path, draw, size=(60, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", size)
    draw(ImageDraw.Draw(image))
    image.save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes: a file off its middle, a wide file, a folder of two."""
    root = tmp_path_factory.mktemp("sprites")

    def corner(d):  # an L of two colours
        d.rectangle((10, 5, 19, 54), (250, 40, 10, 255))
        d.rectangle((10, 45, 49, 54), (20, 200, 30, 255))

    picture(root / "corner.png", corner)
    picture(root / "bar.PNG", lambda d: d.rectangle((2, 8, 61, 27), (30, 60, 250, 255)), (64, 40))
    picture(root / "dots" / "a.png", lambda d: d.ellipse((10, 10, 49, 49), (255, 255, 0, 255)))
    picture(root / "dots" / "b.png", lambda d: d.ellipse((10, 10, 49, 49), (255, 0, 255, 200)))
    (root / "LICENCE.txt").write_text("free")
    return root


def config(folder, **values):
    return SceneConfig(**{"sprites": str(folder), "background": "any", **values})


def mean(path):
    """A file's mean colour, which tells the two dots apart."""
    rgba = np.asarray(Image.open(path)).astype(float)
    colour = (rgba[..., :3] * rgba[..., 3:]).sum((0, 1)) / rgba[..., 3].sum()
    return torch.tensor(colour)


def painted(folder, scenes, b):
    """Image in [0, 1] and alpha of each object, by sampling the files at fine points."""
    files = find_sprites(folder)
    h, w = scenes.size
    at = (np.arange(h * FINE) + 0.5) / FINE
    xs, ys = np.meshgrid(at, at)
    image = np.broadcast_to(scenes.background[b].numpy() / 255, (h, w, 3))
    alphas = np.zeros((scenes.label.shape[1], h, w))
    for k in reversed(range(scenes.label.shape[1])):
        name = sorted(files)[int(scenes.label[b, k])]
        # the mean of a file of two colours depends a little on how its edges fall on texels
        chosen = [f for f in files[name] if (mean(f) - scenes.colour[b, k]).abs().max() < 8]
        whole = Image.open(chosen[0])
        source = np.asarray(whole.crop(whole.getchannel("A").getbbox())).astype(float) / 255
        x0, y0 = scenes.position[b, k].tolist()
        scale = max(source.shape[:2]) / float(scenes.side[b, k])
        c, s = math.cos(scenes.angle[b, k]), math.sin(scenes.angle[b, k])
        dx, dy = xs - x0, ys - y0
        u = np.floor((c * dx + s * dy) * scale + source.shape[1] / 2).astype(int)
        v = np.floor((-s * dx + c * dy) * scale + source.shape[0] / 2).astype(int)
        inside = (u >= 0) & (v >= 0) & (u < source.shape[1]) & (v < source.shape[0])
        texel = source[v.clip(0, source.shape[0] - 1), u.clip(0, source.shape[1] - 1)]
        texel[..., 3] *= inside
        texel[..., :3] *= texel[..., 3:]
        rgba = texel.reshape(h, FINE, w, FINE, 4).mean((1, 3))
        alphas[k] = rgba[..., 3]
        image = rgba[..., :3] + (1 - rgba[..., 3:]) * image
    return image, alphas


@pytest.mark.parametrize("rotate", [False, True])
def test_images_and_masks_are_what_a_painter_makes_of_the_files(folder, rotate):
    c = config(folder, size=48, object_size=(0.3, 0.6), rotate=rotate)
    scenes = SceneRenderer(c, 3).render(torch.arange(12))
    ours_area, area = 0, 0
    for b in range(12):
        image, alphas = painted(folder, scenes, b)
        ours = scenes.image[b].permute(1, 2, 0).numpy()
        assert np.abs(ours - image).mean() < 0.008
        for mask, alpha in zip(scenes.mask[b].numpy(), alphas, strict=True):
            sure = np.abs(alpha - 0.5) > 0.4  # the renderer has 3 x 3 samples a pixel
            assert (mask[sure] == (alpha[sure] > 0.5)).all()
            ours_area, area = ours_area + mask.sum(), area + (alpha > 0.5).sum()
    assert abs(ours_area / area - 1) < 0.03


def test_regions_are_the_masks_front_to_back(folder):
    scenes = SceneRenderer(config(folder, objects=5, min_objects=1), 0).render(torch.arange(40))
    seen = torch.zeros(40, 32, 32, dtype=torch.bool)
    for k in range(5):
        assert torch.equal(scenes.region[:, k], scenes.mask[:, k] & ~seen)
        seen |= scenes.mask[:, k]
    assert torch.equal(scenes.background_region, ~seen)
    assert torch.equal(scenes.mask.flatten(2).any(2), scenes.label >= 0)
    levels = (scenes.image * 255).round()
    torch.testing.assert_close(levels / 255, scenes.image, rtol=0, atol=1e-7)
    none = SceneRenderer(config(folder, objects=0), 0).render(torch.arange(3))
    background = none.background[:, :, None, None].expand(3, 3, 32, 32)
    assert torch.equal((none.image * 255).round().byte(), background)


def test_a_scene_depends_on_seed_and_index_alone(folder, tmp_path):
    c = config(folder, rotate=True, object_size=(0.3, 0.5), size=16)
    train, valid = (GeneratedScenes(c, 5, 40, split) for split in ("train", "valid"))
    indices = torch.tensor([7, 3, 39])
    whole, some = train.scenes(torch.arange(40)), train.scenes(indices)
    for f in dataclasses.fields(some):
        assert torch.equal(getattr(whole, f.name)[indices], getattr(some, f.name)), f.name
    assert torch.equal(train.images(indices), some.image)
    assert train.classes == ("bar", "corner", "dots")
    other = valid.images(torch.arange(40))
    assert not any(torch.equal(a, b) for a in whole.image for b in other)
    (tmp_path / "set").mkdir()
    write_dataset(tmp_path / "set", c, 5, 40, 4)
    stored = StoredScenes(tmp_path / "set")
    assert stored.classes == train.classes
    for f in dataclasses.fields(some):
        assert torch.equal(
            getattr(whole, f.name), getattr(stored.scenes(torch.arange(40)), f.name)
        )


def test_every_file_of_a_class_occurs_and_classes_can_be_chosen(folder):
    c = config(folder, classes=("dots",), selection="random", objects=1)
    colours = SceneRenderer(c, 0).render(torch.arange(400)).colour[:, 0]
    share = (colours == torch.tensor([255, 255, 0])).all(1).double().mean()
    assert 0.4 < share < 0.6
    c = config(folder, class_weights=(1, 0, 3), selection="random", objects=1)
    label = SceneRenderer(c, 0).render(torch.arange(400)).label
    assert 0.65 < (label == 2).double().mean() < 0.85 and not (label == 1).any()


@pytest.mark.parametrize(("rotate", "high"), [(False, 1.0), (True, 0.7)])
def test_sprites_lie_wholly_in_the_image_and_reach_its_edges(folder, rotate, high):
    c = config(folder, objects=1, rotate=rotate, object_size=(0.4, high), selection="random")
    scenes = SceneRenderer(c, 0).render(torch.arange(400))
    # a sprite that was cut off would have a smaller share of its box than the others
    area = scenes.mask.flatten(2).sum(2).double() / scenes.side.double() ** 2
    for k, name in enumerate(("bar", "corner", "dots")):
        share = area[scenes.label == k]
        assert share.min() > 0.75 * share.median(), name
    for edge in (scenes.mask[..., 0, :], scenes.mask[..., -1, :], scenes.mask[..., 0]):
        assert edge.any()


@pytest.mark.parametrize("background", ["dark", "grey", "any"])
def test_backgrounds(background):
    colours = SceneRenderer(SceneConfig(background=background), 0).render(torch.arange(300))
    colours = colours.background.int()
    assert (colours.max() < 128) == (background == "dark") and colours.min() < 10
    assert (colours[:, :1] == colours).all() == (background == "grey")


def test_sprites_can_be_tinted(folder):
    c = config(folder, kind="random-colours", objects=1, classes=("bar",), size=64)
    scenes = SceneRenderer(c, 0).render(torch.arange(20))
    for image, mask, colour in zip(scenes.image, scenes.mask, scenes.colour, strict=True):
        got = (image[:, mask[0]] * 255).round().median(1).values
        assert torch.equal(got, colour[0].float()) and colour.min() >= 128
    c = dataclasses.replace(c, near_background=20)
    scenes = SceneRenderer(c, 0).render(torch.arange(20))
    assert (scenes.colour[:, 0].int() - scenes.background.int()).abs().max() <= 20


def write_bad(root, name):
    root.mkdir()
    if name == "text":
        (root / "a.png").write_text("no picture")
    elif name == "opaque":
        Image.new("RGB", (8, 8)).save(root / "a.png")
    elif name == "clear":
        Image.new("RGBA", (8, 8)).save(root / "a.png")
    elif name == "twice":
        for path in (root / "a.png", root / "a" / "b.png"):
            picture(path, lambda d: d.rectangle((0, 0, 9, 9), "red"))
    elif name == "other":
        Image.new("RGB", (8, 8)).save(root / "a.jpg")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "a readable PNG, JPEG, GIF or WebP image, got .*a.png"),
        ("opaque", "transparent background, got .*a.png, which has no transparency: cut it out"),
        ("clear", "visible sprite, got .*a.png, which is fully transparent"),
        ("twice", "sprites called a in one place, got .*a.png"),
        ("other", "got .*sprites, without PNG files"),
    ],
)
def test_files_that_are_no_sprites_are_named(tmp_path, name, message):
    write_bad(tmp_path / "sprites", name)
    with pytest.raises(EconError, match=message):
        SceneRenderer(config(tmp_path / "sprites"), 0)


def test_options_that_make_no_sense(folder, tmp_path):
    with pytest.raises(EconError, match="none, which does not exist"):
        SceneRenderer(config(tmp_path / "none"), 0)
    with pytest.raises(EconError, match="among bar, corner, dots, got 'horse'"):
        SceneRenderer(config(folder, classes=("horse",)), 0)
    with pytest.raises(EconError, match="one class weight for each of bar, corner, dots, got 2"):
        SceneRenderer(config(folder, class_weights=(1, 2)), 0)
    with pytest.raises(EconError, match="dark, grey, any"):
        config(folder, background="white")
