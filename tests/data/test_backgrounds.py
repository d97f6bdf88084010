"""Scenes of sprites in front of pictures, against windows that are cut out of the files."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.data.synthetic.dataset import StoredScenes, write_dataset
from econ_pyro.data.synthetic.renderer import SceneRenderer, Scenes
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two hard-edged sprites, and three pictures: small, wide and large."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        rgba = np.zeros((10, 10, 4), np.uint8)
        rgba[2:8, 2:8] = (*colour, 255)
        (root / "sprites").mkdir(exist_ok=True)
        Image.fromarray(rgba).save(root / "sprites" / f"{name}.png")
    (root / "floors" / "more").mkdir(parents=True)
    pictures = {"a.png": (11, 7), "more/b.png": (16, 40), "c.png": (30, 33)}
    for name, shape in pictures.items():
        pixels = rng.integers(0, 100, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "floors" / name)
    return root


def config(folders, **values):
    options = {"sprites": str(folders / "sprites"), "backgrounds": str(folders / "floors")}
    return SceneConfig(**{**options, "size": 16, "selection": "random", **values})


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def windows(path, size):
    """All windows that may be shown of a picture, by their first row and column."""
    pixels = pixels_of(path)
    tiled = np.tile(pixels, (4, 4, 1))
    starts = [range(n - size + 1 if n > size else n) for n in pixels.shape[:2]]
    return {(y, x): tiled[y : y + size, x : x + size] for y in starts[0] for x in starts[1]}


def window_of(paths, image, free):
    """Path, place and pixels of the only window that an image shows where it is free."""
    [found] = [
        (path, place, window) for path in paths for place, window in windows(path, 16).items()
        if (window == image)[free].all()
    ]  # fmt: skip
    return found


def test_backgrounds_are_windows_in_front_of_which_sprites_are_painted(folders):
    scenes = SceneRenderer(config(folders, objects=2), 0).render(torch.arange(80))
    paths = [folders / "floors" / name for name in ("a.png", "c.png", "more/b.png")]
    seen = {path: set() for path in paths}
    colours = np.array([[0, 255, 0], [255, 0, 0]])  # green and red, as files are sorted by name
    samples = (np.arange(48) + 0.5) / 3
    for b in range(80):
        near = torch.nn.functional.max_pool2d(scenes.mask[b].any(0)[None].float(), 3, 1, 1)
        image = (scenes.image[b] * 255).round().byte().permute(1, 2, 0).numpy()
        path, place, window = window_of(paths, image, near[0].numpy() == 0)
        seen[path].add(place)
        assert scenes.background[b].tolist() == np.rint(pixels_of(path).mean((0, 1))).tolist()
        painted = window.astype(float)
        for n in (1, 0):  # squares: the share of a pixel's nine samples in them is alpha
            (x, y), side = scenes.position[b, n].numpy(), float(scenes.side[b, n])
            in_x, in_y = ((samples >= c - side / 2) & (samples < c + side / 2) for c in (x, y))
            alpha = (in_y[:, None] & in_x).reshape(16, 3, 16, 3).mean((1, 3))[..., None]
            assert ((alpha[..., 0] > 0.5) == scenes.mask[b, n].numpy()).all()
            painted = alpha * colours[scenes.label[b, n]] + (1 - alpha) * painted
        assert np.abs(painted - image).max() <= 2
    assert min(len(places) for places in seen.values()) > 10
    assert max(y for y, _ in seen[paths[1]]) > 10 and max(x for _, x in seen[paths[2]]) > 20


def test_objects_are_those_of_scenes_without_pictures(folders):
    ours = SceneRenderer(config(folders), 2)
    plain = SceneRenderer(dataclasses.replace(ours.config, backgrounds=None), 2)
    ours, plain = (r.render(torch.arange(20)) for r in (ours, plain))
    for name in ("label", "mask", "region", "position", "colour"):
        assert torch.equal(getattr(ours, name), getattr(plain, name)), name
    assert not torch.equal(ours.image, plain.image)


def test_a_scene_depends_on_its_number_alone(folders, tmp_path):
    renderer = SceneRenderer(config(folders), 3)
    together, alone = renderer.render(torch.arange(20)), renderer.render(torch.tensor([17, 4]))
    write_dataset(tmp_path, config(folders), 3, 20, 1)
    stored = StoredScenes(tmp_path).scenes(torch.arange(20))
    for field in dataclasses.fields(Scenes):
        whole = getattr(together, field.name)
        assert torch.equal(whole[[17, 4]], getattr(alone, field.name)), field.name
        assert torch.equal(whole, getattr(stored, field.name)), field.name
    assert torch.equal(renderer.render_images(torch.tensor([4])), alone.image[1:])


def test_sprites_near_the_mean_of_the_picture(folders):
    near = config(folders, near_background=20)
    scenes = SceneRenderer(near, 0).render(torch.arange(50))
    away = (scenes.colour.int() - scenes.background[:, None].int()).abs()
    assert 15 < away.max() <= 20


def test_folders_that_cannot_be_used(folders, tmp_path, monkeypatch):
    with pytest.raises(EconError, match="sprites, in front of backgrounds, got none"):
        SceneConfig(backgrounds="folder")
    with pytest.raises(EconError, match="a folder of pictures, got .*none, which does not exist"):
        SceneRenderer(config(folders, backgrounds=str(tmp_path / "none")), 0)
    with pytest.raises(EconError, match="PNG, JPEG, GIF or WebP files, got .*, without any"):
        SceneRenderer(config(folders, backgrounds=str(tmp_path)), 0)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(EconError, match="a readable PNG, .* text.png|got .*text.png"):
        SceneRenderer(config(folders, backgrounds=str(tmp_path)), 0)
    monkeypatch.setattr("econ_pyro.data.synthetic.backgrounds._MAX_PIXELS", 100)
    with pytest.raises(EconError, match="at most 100 pixels in all, got more in .*: scale them"):
        SceneRenderer(config(folders), 0)
