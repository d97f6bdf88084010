"""Textured scenes against a painter that computes each pixel's pattern in floats."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.data.synthetic.shape_set import ShapeSet
from econ_pyro.data.synthetic.textured import PATTERNS, PERIODS, TexturedSet, share
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SCENE_SETS, SceneConfig

TEXTURED = SCENE_SETS["textured"]


def layout_of(config, n, seed=0):
    return TexturedSet(config).sample(config, seed, torch.arange(n))


def pattern(kind, angle, period, u0, v0, x, y):
    """Share of the second colour of stripes and checkers at a pixel, and how near an edge is."""
    a = 2 * math.pi * angle / 256
    u = (math.cos(a) * x + math.sin(a) * y + u0 / 16) / (period / 16)
    v = (math.cos(a) * y - math.sin(a) * x + v0 / 16) / (period / 16)
    edge = min(abs(2 * c - round(2 * c)) for c in ((u, v) if kind == 1 else (u,)))
    return ((u % 1 < 0.5) != (kind == 1 and v % 1 < 0.5)), edge


@pytest.mark.parametrize("size", [32, 64])
def test_images_are_what_a_painter_makes_of_patterns_and_masks(size):
    config = dataclasses.replace(TEXTURED, size=size, objects=5, min_objects=2)
    layout = layout_of(config, 8)
    scenes = SceneRenderer(config, 0).render(torch.arange(8))
    image = (scenes.image * 255).round().long()
    certain = 0
    for b in range(8):
        owner = np.full((size, size), 5)
        for k in range(5):
            owner[scenes.region[b, k].numpy()] = k
        for y, x in np.ndindex(size, size):
            k = owner[y, x]
            kind, angle, period, u0, v0, _ = layout.pattern[b, k].tolist()
            first, second = layout.pair[b, k]
            got = image[b, :, y, x]
            if PATTERNS[kind] == "noise":
                low, high = torch.minimum(first, second), torch.maximum(first, second)
                assert (low <= got).all() and (got <= high).all()
                continue
            one, edge = pattern(kind, angle, period, u0, v0, x + 0.5, y + 0.5)
            if edge > 0.1:
                assert torch.equal(got, second if one else first)
                certain += 1
    assert certain > 2000


def test_noise_is_smooth_and_uses_both_colours():
    """Neighbours differ by little, and noise of another key is unrelated."""
    n, size = 60, 32
    fields = torch.tensor([2, 20, 16 * 8, 40, 50, 0]).repeat(n, 1)
    fields[:, 5] = torch.arange(n) * 7919
    values = share(fields[:, None, None].expand(-1, size, size, -1)).double() / 256
    assert values.min() == 0 and values.max() > 0.98 and abs(values.mean() - 0.5) < 0.03
    step = max(values.diff(dim=1).abs().max(), values.diff(dim=2).abs().max())
    assert step < 1.5 * 1.5 / 8 + 0.02  # slope of the polynomial, of the contrast, per period
    flat = values.flatten(1) - values.flatten(1).mean(1, keepdim=True)
    alike = torch.corrcoef(flat) - torch.eye(n)
    assert alike.mean().abs() < 0.02
    here, there = values[:, :, :-17].flatten(), values[:, :, 17:].flatten()  # two periods away
    assert torch.corrcoef(torch.stack([here, there]))[0, 1].abs() < 0.1


def test_shapes_are_laid_out_like_random_colours():
    plain = dataclasses.replace(TEXTURED, kind="random-colours")
    ours, theirs = (SceneRenderer(c, 4).render(torch.arange(30)) for c in (TEXTURED, plain))
    for name in ("label", "mask", "region", "position", "side", "angle"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.mask.any() and not torch.equal(ours.image, theirs.image)


def test_distribution_of_patterns_and_colours():
    layout = layout_of(TEXTURED, 2000)
    kind, angle, period, u0, v0, key = layout.pattern.flatten(0, 1).unbind(-1)
    assert torch.bincount(kind).double().div(8000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    assert angle.unique().tolist() == list(range(256))
    low, high = (32 * 16 * p for p in PERIODS)
    assert period.min() == low and period.max() == high
    assert (u0 < period).all() and (v0 < period).all() and len(key.unique()) > 7990
    first, second = layout.pair.unbind(2)
    away = (first - second).abs()
    assert away.min() == 48 and away.max() == 111
    assert layout.pair.min() == 0 and layout.pair.max() == 255
    scenes = SceneRenderer(TEXTURED, 0).render(torch.arange(5))
    assert torch.equal(scenes.colour.long(), (layout.pair.sum(2)[:5, :-1] + 1) // 2)
    assert torch.equal(scenes.background.long(), (layout.pair.sum(2)[:5, -1] + 1) // 2)


@pytest.mark.parametrize(("background", "largest"), [("dark", 127), ("grey", 255), ("black", 0)])
def test_backgrounds_have_patterns_of_their_colours(background, largest):
    config = dataclasses.replace(TEXTURED, background=background, objects=0)
    image = (SceneRenderer(config, 1).render(torch.arange(200)).image * 255).round()
    assert 0.95 * largest <= image.max() <= largest
    if background == "grey":
        assert (image == image[:, :1]).all()
    assert (image.flatten(1).std(1) > 0).all() == (background != "black")


def test_empty_slots_are_black_and_any_objects_may_be_missing():
    config = dataclasses.replace(TEXTURED, objects=8, min_objects=0, rotate=True)
    scenes = SceneRenderer(config, 2).render(torch.arange(50))
    empty = scenes.label < 0
    assert empty.any() and (scenes.colour[empty] == 0).all()
    assert torch.equal(scenes.mask.flatten(2).any(2), ~empty)


def test_both_colours_can_be_near_those_of_the_background():
    pair = layout_of(dataclasses.replace(TEXTURED, near_background=20), 200).pair
    away = (pair[:, :-1] - pair[:, -1:]).abs()
    assert away.max() == 20 and away.float().mean() > 9
    assert pair.min() >= 0 and pair.max() <= 255


def test_options_that_make_no_sense():
    with pytest.raises(EconError, match="textured without sprites, got folder"):
        dataclasses.replace(TEXTURED, sprites="folder")
    assert ShapeSet(SceneConfig()).classes == TexturedSet(TEXTURED).classes
