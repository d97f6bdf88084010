"""Spriteworld's scenes against Pillow's polygons, drawn large, and against crossings of edges."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.readers.numpy_files import save_npz
from econ_pyro.data.synthetic.spriteworld import SHAPES, from_sprites
from econ_pyro.errors import EconError

FINE = 24  # pixels of the large drawing in one of the image


class Quad:
    """Stands in for Spriteworld's sprite where that is not installed: any polygon."""

    shape = "square"

    def __init__(self, vertices, color, angle=0.0, shape="square"):
        self.vertices, self.color = np.asarray(vertices, float), color
        self.angle, self.shape = angle, shape


def crossings(vertices, size):
    """Which pixel centres lie inside, by counting edges to the right; y up in ``vertices``."""
    x, y = np.meshgrid(np.arange(size) + 0.5, size - np.arange(size) - 0.5)
    inside = np.zeros((size, size), bool)
    ends = np.asarray(vertices) * size
    for (x0, y0), (x1, y1) in zip(ends, np.roll(ends, -1, 0), strict=True):
        if y0 == y1:
            continue
        spans = (y0 > y) != (y1 > y)
        inside ^= spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def coverage(vertices, size):
    """Share of each pixel that a polygon covers, as Spriteworld's own renderer would draw it."""
    canvas = Image.new("L", (size * FINE, size * FINE))
    ImageDraw.Draw(canvas).polygon([tuple(v) for v in vertices * size * FINE], fill=1)
    drawn = np.flipud(np.asarray(canvas))
    return drawn.reshape(size, FINE, size, FINE).mean((1, 3))


def check(states, size):
    scenes = from_sprites(states, size, background=(7, 8, 9))
    for b, sprites in enumerate(states):
        front = np.full((size, size), -1)
        for k, sprite in enumerate(sprites[::-1]):
            mask = scenes.mask[b, k].numpy()
            assert np.array_equal(mask, crossings(sprite.vertices, size))
            share = coverage(sprite.vertices, size)
            assert mask[share > 0.98].all() and not mask[share < 0.02].any()
            assert SHAPES[scenes.label[b, k]] == sprite.shape
            assert np.array_equal(scenes.region[b, k].numpy(), mask & (front < 0))
            front[mask & (front < 0)] = k
            box = np.argwhere(share > 0)
            low, high = box.min(0), box.max(0) + 1  # (y, x)
            middle = scenes.position[b, k].numpy()[::-1]
            assert np.abs(middle - (low + high) / 2).max() <= 1.1
            assert abs(float(scenes.side[b, k]) - (high - low).max()) <= 2.1
        colours = np.array([*(s.color for s in sprites[::-1]), (7, 8, 9)], np.uint8)
        image = (scenes.image[b] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(image, colours[front])
    return scenes


def test_polygons_front_to_back():
    rng = np.random.default_rng(0)
    states = []
    for count in (3, 1, 0, 4):
        corners = rng.uniform(0.1, 0.9, (count, 5, 2))
        states.append([Quad(c, tuple(rng.integers(0, 256, 3).tolist())) for c in corners])
    scenes = check(states, 20)
    assert scenes.count.tolist() == [3, 1, 0, 4] and scenes.mask.shape == (4, 4, 20, 20)
    assert torch.equal(scenes.background, torch.tensor([[7, 8, 9]] * 4, dtype=torch.uint8))
    scenes.layers(5)


def test_scenes_saved_are_what_is_read(tmp_path):
    rng, shapes = np.random.default_rng(2), ("square", "circle")
    states = [
        [
            Quad(rng.uniform(0, 1, (4, 2)), tuple(rng.integers(0, 256, 3).tolist()), shape=shape)
            for shape in rng.permutation(shapes).tolist() * (1 + i % 2)
        ]
        for i in range(6)
    ]  # fmt: skip
    scenes = from_sprites(states, 16, classes=shapes)
    save_npz(tmp_path / "a.npz", scenes, shapes)
    source = open_images(tmp_path / "a.npz", 16)
    assert source.classes == shapes and len(source) == 6
    read = source.scenes(torch.arange(6))
    assert torch.equal(read.image, scenes.image)
    for b in range(6):
        seen = scenes.region[b].flatten(1).any(1)  # what is wholly hidden is nowhere in the file
        n = int(seen.sum())
        where = {region.numpy().tobytes(): i for i, region in enumerate(read.region[b])}
        slots = [where[region.numpy().tobytes()] for region in scenes.region[b, seen]]
        assert torch.equal(read.mask[b, slots], scenes.mask[b, seen])
        assert torch.equal(read.label[b, slots], scenes.label[b, seen])
        assert (read.label[b] >= 0).sum() == n
        for i in range(n):
            for j in range(n):  # whoever is seen where both are is in front
                a, b_ = scenes.region[b, seen][i], scenes.mask[b, seen][j]
                if i != j and (a & b_).any():
                    assert slots[i] < slots[j]


def test_what_cannot_be_saved_is_said(tmp_path):
    scenes = from_sprites([[Quad([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]], (9, 9, 9))]], 8)
    with pytest.raises(EconError, match="file called .npz, got .*a.npy"):
        save_npz(tmp_path / "a.npy", scenes, SHAPES)
    with pytest.raises(EconError, match="names of 2 classes, got 1: triangle"):
        save_npz(tmp_path / "a.npz", scenes, ("triangle",))
    for nothing in ([], [[], []]):
        with pytest.raises(EconError, match="scenes with objects to write into .*, got none"):
            save_npz(tmp_path / "a.npz", from_sprites(nothing, 8), SHAPES)
    assert not any(tmp_path.iterdir())


def test_colours_are_converted_and_unknown_shapes_named():
    square = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]
    grey = from_sprites([[Quad(square, (0.5, 0, 0))]], 8, to_rgb=lambda c: [int(255 * c[0])] * 3)
    assert grey.colour.tolist() == [[[127, 127, 127]]] and grey.mask.sum() == 16
    with pytest.raises(EconError, match="triangle, .*, got 'blob'"):
        from_sprites([[Quad(square, (0, 0, 0), shape="blob")]], 8)


@pytest.mark.needs("spriteworld")
def test_sprites_of_the_package():
    from spriteworld.constants import SHAPES as KNOWN
    from spriteworld.sprite import Sprite

    assert set(SHAPES) == set(KNOWN)
    rng = np.random.default_rng(1)
    states = [
        [
            Sprite(
                *rng.uniform(0.2, 0.8, 2), shape=shape, angle=float(rng.uniform(0, 360)),
                scale=0.3, c0=int(rng.integers(256)), c1=0, c2=int(rng.integers(256)),
            )
            for shape in rng.permutation(SHAPES)[:3].tolist()
        ]
        for _ in range(12)
    ]  # fmt: skip
    check(states, 32)
