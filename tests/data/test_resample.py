"""Images of another size: nearest pixels or means, against indices and means in NumPy."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from econ_pyro.config import Config
from econ_pyro.data.images import read_image
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.resize import has_hard_edges
from econ_pyro.errors import EconError
from econ_pyro.files import storage
from econ_pyro.training import checkpoint
from econ_pyro.training.run_config import RunConfig, read_config, write_config
from helpers.data_files import blocks

ALL = torch.arange(2)


def photograph(height, width, n=2, seed=0):
    """Smooth shades with noise: no two pixels alike."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, None, :, None]
    return (ramp + rng.integers(0, 56, (n, height, width, 3))).astype(np.uint8)


def pixels(source):
    return (source.images(ALL) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def write(folder, kind, images):
    """The images as ``--data``: a folder of files, an animation or an array."""
    folder.mkdir(parents=True)
    if kind == "array":
        np.save(folder / "a.npy", images)
        return folder / "a.npy"
    pictures = [Image.fromarray(image) for image in images]
    if kind == "animation":
        pictures[0].save(folder / "a.webp", save_all=True, append_images=pictures[1:],
                         lossless=True)  # fmt: skip
        return folder / "a.webp"
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", ["array", "folder", "animation"])
def test_nearest_pixels_and_means_of_any_data(tmp_path, kind):
    _, _, flat = blocks(2, 3, 48, 48)
    noisy = photograph(48, 48)
    nearest = np.floor((np.arange(32) + 0.5) * 48 / 32).astype(int)
    # each target pixel covers one and a half: weights 2/3 and 1/3, and 1/3 and 2/3
    weights = np.zeros((32, 48))
    for i in range(16):
        weights[2 * i, 3 * i : 3 * i + 2] = 2 / 3, 1 / 3
        weights[2 * i + 1, 3 * i + 1 : 3 * i + 3] = 1 / 3, 2 / 3
    for name, images, auto in (("flat", flat, "nearest"), ("noisy", noisy, "area")):
        path = write(tmp_path / name, kind, images)
        found = {r: pixels(open_images(path, 32, resample=r)) for r in ("nearest", "area", "auto")}
        assert np.array_equal(found["nearest"], images[:, nearest][:, :, nearest])
        means = np.einsum("ih,nhwc,jw->nijc", weights, images.astype(float), weights)
        assert np.abs(found["area"] - means).max() <= 0.5001
        assert np.array_equal(found["auto"], found[auto])
        assert not np.array_equal(found["area"], found["nearest"])


def test_masks_lie_on_the_nearest_pixels(tmp_path):
    _, numbers, images = blocks(2, 3, 35, 35)
    images = 60 * numbers[..., None].repeat(3, -1)  # the colour says whose pixel it is
    np.savez(tmp_path / "a.npz", image=images, mask=numbers)
    for fit, size in (("crop", 32), ("resize", 40), ("crop", 24)):
        source = open_images(tmp_path / "a.npz", size, fit)
        region = source.scenes(ALL).region.numpy()
        found = pixels(source)[..., 0] // 60
        for n in range(3):
            assert np.array_equal(region[:, n], found == n + 1)


@pytest.mark.parametrize("scale", [1, 4])
def test_blended_edges_are_told_from_hard_ones(scale):
    """A disc drawn four times as large and made small by means has blended edges."""
    big = Image.new("RGB", (48 * scale, 48 * scale), (20, 90, 40))
    ImageDraw.Draw(big).ellipse((8 * scale, 8 * scale, 40 * scale, 30 * scale), fill=(250, 30, 90))
    picture = big.resize((48, 48), Image.Resampling.BOX) if scale > 1 else big
    picture = np.asarray(picture)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) <= 20
    assert has_hard_edges(Image.fromarray(picture)) == (scale == 1)


def test_many_colours_and_dithering_are_not_hard_edges():
    assert not has_hard_edges(Image.fromarray(photograph(40, 40)[0]))
    two = np.indices((40, 40)).sum(0) % 2 * 255
    assert not has_hard_edges(Image.fromarray(two.astype(np.uint8)))
    stripes = np.repeat(np.arange(40) * 6, 40).reshape(40, 40)
    assert not has_hard_edges(Image.fromarray(stripes.astype(np.uint8)))  # 40 colours
    assert has_hard_edges(Image.fromarray((stripes // 24 * 24).astype(np.uint8)))  # ten
    assert has_hard_edges(Image.new("RGB", (1, 1)))


def test_a_file_is_read_as_asked(tmp_path):
    pattern = np.zeros((4, 4, 3), np.uint8)
    pattern[:, 1::2] = 200
    Image.fromarray(pattern).save(tmp_path / "a.png")
    found = {r: read_image(tmp_path / "a.png", 2, resample=r) for r in ("nearest", "area", "auto")}
    assert (found["area"] * 255 == 100).all()
    assert (found["nearest"] * 255 == 200).all()  # the pixel right of the middle
    assert torch.equal(found["auto"], found["nearest"])


def test_runs_remember_how_images_were_resized(tmp_path):
    run = RunConfig(Config(), Path("a.npy"), "crop", 10, (), "area")
    write_config(tmp_path, run, "quick")
    assert read_config(tmp_path) == run
    stored = json.loads((tmp_path / checkpoint.CONFIG).read_text())
    stored = {name: value for name, value in stored.items() if name != "sha256"}
    storage.write_json(tmp_path / checkpoint.CONFIG, {**stored, "resample": "cubic"})
    with pytest.raises(EconError, match="one of auto, nearest, area as resample in .* 'cubic'"):
        read_config(tmp_path)
    del stored["resample"]  # as earlier versions wrote it
    storage.write_json(tmp_path / checkpoint.CONFIG, stored)
    assert read_config(tmp_path) == run._replace(resample="auto")
    assert dataclasses.is_dataclass(read_config(tmp_path).config)
