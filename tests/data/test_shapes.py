"""Masks of shapes against the same shapes drawn another way, in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path

from econ_pyro.data.synthetic import shapes
from econ_pyro.scene_config import MIN_SIDE, SHAPES

PHI = (1 + math.sqrt(5)) / 2


def outline(name, n=120):
    """Corners of a shape in the box [-1, 1]^2, y down, by textbook formulas."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    if name == "circle":
        return [np.stack([np.cos(t), np.sin(t)], 1)]
    if name == "ellipse":
        return [np.stack([np.cos(t), np.sin(t) / 2], 1)]
    if name == "square":
        return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)]
    if name == "triangle":
        return [np.array([(0, -1), (1, 1), (-1, 1)], float)]
    if name == "cross":
        a = 1 / 3
        half = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
        return [np.array(half + [(-x, -y) for x, y in half])]
    if name == "star":  # a regular pentagram's ten corners, stretched to the box
        k = np.arange(10)
        r = np.where(k % 2 == 0, 1.0, PHI**-2)
        p = np.stack([r * np.sin(k * np.pi / 5), -r * np.cos(k * np.pi / 5)], 1)
        low, high = p.min(0), p.max(0)
        return [2 * (p - low) / (high - low) - 1]
    disc = np.stack([np.cos(t), np.sin(t)], 1) * 27 / 48
    lobes = [disc + np.array([x, -21]) / 48 for x in (21, -21)]
    return [*lobes, np.array([(0, 48), (42, -5), (-42, -5)]) / 48]


def expected(name, cx, cy, side, turn, size):
    """Inside, and surely not near an edge, of every pixel centre."""
    angle = 2 * math.pi * turn / shapes.TURNS
    turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    grid = np.arange(size) + 0.5
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    inside = np.zeros(len(points), bool)
    near = np.zeros(len(points), bool)
    for part in outline(name):
        corners = part @ turned * side / 2 + (cx, cy)
        inside |= Path(np.concatenate([corners, corners[:1]]), closed=True).contains_points(points)
        a, b = corners, np.roll(corners, -1, 0)
        t = ((points[:, None] - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)
        foot = a + t.clip(0, 1)[..., None] * (b - a)
        # rounded cosines and, in the star, the golden ratio move an edge by under 1% of the side
        near |= np.hypot(*(points[:, None] - foot).T).min(0) < 0.005 * side + 1e-3
    return inside.reshape(size, size), near.reshape(size, size)


def draw(name, cx, cy, side, turn, size):
    """One mask; lengths in pixels."""
    units = torch.tensor([[round(cx * 16), round(cy * 16)]]), torch.tensor([round(side * 16)])
    zero = torch.zeros(1, dtype=torch.int64)
    return shapes.masks((name,), zero, *units, zero + turn, size)[0].numpy()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("turn", [0, 64, 37, 150])
def test_masks_equal_outlines_drawn_with_floats(name, turn):
    for cx, cy, side in ((16, 16, 12), (15.3125, 17.0625, 20), (14.5, 12.75, 16.25)):
        want, near = expected(name, cx, cy, side, turn, 32)
        got = draw(name, cx, cy, side, turn, 32)
        assert near.mean() < 0.2
        assert (got == want)[~near].all()
        assert got.sum() == pytest.approx(want.sum(), rel=0.1)


@given(
    name=st.sampled_from(SHAPES),
    turn=st.integers(0, 255),
    side=st.integers(3 * 8, 30 * 8),
    x=st.integers(16 * 8, 16 * 24),
    y=st.integers(16 * 8, 16 * 24),
)
@settings(max_examples=30, deadline=None)
def test_masks_equal_outlines_anywhere(name, turn, side, x, y):
    want, near = expected(name, x / 16, y / 16, side / 8, turn, 32)
    assert (draw(name, x / 16, y / 16, side / 8, turn, 32) == want)[~near].all()


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_fill_their_boxes(name):
    rows, columns = np.nonzero(draw(name, 64, 64, 96, 0, 128))
    assert columns.min() in (16, 17) and columns.max() in (110, 111)
    if name == "ellipse":
        assert rows.min() == 40 and rows.max() == 87
    else:
        # a tip may end between two pixel centres
        assert rows.min() in (16, 17, 18) and rows.max() in (110, 111)


@pytest.mark.parametrize(("name", "area"), [
    ("circle", math.pi / 4), ("square", 1.0), ("triangle", 0.5), ("cross", 5 / 9),
    ("ellipse", math.pi / 8),
])  # fmt: skip
def test_areas(name, area):
    assert draw(name, 256, 256, 480, 0, 512).sum() == pytest.approx(area * 480**2, rel=2e-3)
    assert draw(name, 256, 256, 240, 21, 512).sum() == pytest.approx(area * 240**2, rel=1e-2)


def test_a_square_is_as_wide_at_every_offset():
    for x in range(16):
        mask = draw("square", 16 + x / 16, 16 + x / 16, 12, 0, 32)
        assert mask.sum() == 144 and mask.any(0).sum() == 12


def test_integers_do_not_overflow_in_the_largest_image():
    for name in SHAPES:
        small = draw(name, 64, 64, 80, 13, 128)
        large = draw(name, 512, 512, 640, 13, 1024)
        # pixel (i, j) of the small image has its centre between four pixels of the large one
        block = large.reshape(128, 8, 128, 8).mean((1, 3))
        assert (small == (block > 0.5)).mean() > 0.99


@pytest.mark.parametrize("name", SHAPES)
def test_the_smallest_objects_are_never_empty(name):
    turn, offset = torch.meshgrid(torch.arange(0, 256, 5), torch.arange(256), indexing="ij")
    centre = torch.stack([64 + offset % 16, 64 + offset // 16], -1).flatten(0, 1)
    zero = torch.zeros(len(centre), dtype=torch.int64)
    side = zero + MIN_SIDE * 16
    assert shapes.masks((name,), zero, centre, side, turn.flatten(), 8).flatten(1).any(1).all()


@pytest.mark.parametrize("name", SHAPES)
def test_reach_is_the_extent_of_the_turned_shape(name):
    turns = torch.arange(shapes.TURNS)
    side = torch.full_like(turns, 16 * 200)
    extents = shapes.extents((name,), torch.zeros_like(turns), side, turns) / 16
    for turn in range(0, 256, 5):
        a = 2 * math.pi * turn / shapes.TURNS
        m = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        corners = np.concatenate(outline(name)) @ m * 100
        want = [*-corners.min(0), *corners.max(0)]
        # within 1% of the half side: rounded cosines, the star's golden ratio
        assert np.allclose(extents[turn], want, atol=1.0)
    assert extents[0, 0] == extents[0, 2] == 100


def test_empty_slots_are_empty():
    none = torch.full((3,), -1)
    mask = shapes.masks(SHAPES, none, torch.zeros(3, 2).long(), none + 1, none + 1, 16)
    assert mask.shape == (3, 16, 16) and not mask.any()
