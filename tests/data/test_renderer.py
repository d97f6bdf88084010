"""Scenes against naive loops over pixels, and against what appendix C.1 says."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from econ_pyro.data import counter_rng
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.renderer import SceneRenderer, Scenes
from econ_pyro.data.synthetic.shape_set import COLOURS
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SHAPES, SceneConfig


def render(config, n, seed=0):
    return SceneRenderer(config, seed).render(torch.arange(n))


@st.composite
def configs(draw):
    classes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, unique=True).map(tuple))
    objects = draw(st.integers(0, 8))
    rotate = draw(st.booleans())
    size = draw(st.sampled_from([8, 16, 32, 40]))
    low = draw(st.floats(3 / size, 0.6))
    return SceneConfig(
        kind=draw(st.sampled_from(["unique-colours", "random-colours"])),
        size=size,
        objects=objects,
        min_objects=draw(st.none() | st.integers(0, objects)),
        classes=classes,
        class_weights=draw(
            st.none()
            | st.lists(st.floats(0.1, 9), min_size=len(classes), max_size=len(classes)).map(tuple)
        ),
        selection=draw(st.sampled_from(["one-of-each", "random", "same"])),
        object_size=(low, draw(st.floats(low, 0.7 if rotate else 1.0))),
        rotate=rotate,
        near_background=draw(st.none() | st.integers(1, 255)),
    )


def painter(scene: Scenes, b: int):
    """One scene by a loop over pixels and objects: image in 0 to 255, and owner of each pixel."""
    n, h, w = scene.mask.shape[1:]
    mask, image = scene.mask[b].numpy(), np.empty((3, h, w))
    owner = np.full((h, w), -1)
    for y in range(h):
        for x in range(w):
            image[:, y, x] = scene.background[b].numpy()
            for k in reversed(range(n)):
                if mask[k, y, x]:
                    image[:, y, x] = scene.colour[b, k].numpy()
                    owner[y, x] = k
    return image, owner


@given(config=configs(), seed=st.integers(0, 2**64), first=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_scenes_of_any_configuration(config, seed, first):
    indices = first + torch.arange(3)
    renderer = SceneRenderer(config, seed)
    scenes = renderer.render(indices)
    b, n, size = 3, config.objects, config.size
    assert len(scenes) == b and scenes.image.shape == (b, 3, size, size)
    assert scenes.mask.shape == scenes.region.shape == (b, n, size, size)
    assert scenes.image.dtype == torch.float32 and scenes.mask.dtype == torch.bool
    assert torch.equal(renderer.render_images(indices), scenes.image)

    # slots: objects first, as many as allowed
    here = scenes.label >= 0
    low = n if config.min_objects is None else config.min_objects
    assert ((scenes.count >= low) & (scenes.count <= n)).all()
    assert torch.equal(here, torch.arange(n) < scenes.count[:, None])
    assert torch.equal(scenes.mask.flatten(2).any(2), here)
    assert (scenes.label < len(config.classes)).all()

    # image and regions are what a painter makes of the masks
    image, owner = painter(scenes, 0)
    assert np.array_equal((scenes.image[0].double() * 255).round().numpy(), image)
    for k in range(n):
        assert np.array_equal(scenes.region[0, k].numpy(), owner == k)
    assert np.array_equal(scenes.background_region[0].numpy(), owner == -1)
    total = scenes.region.sum(1) + scenes.background_region.long()
    assert (total == 1).all() and not (scenes.region & ~scenes.mask).any()

    # every object lies in the image, whole: drawn into a larger image, it has no pixel more
    pad = size  # in pixels, on each side
    units = (torch.cat([scenes.position, scenes.side[..., None]], -1) * shapes.UNIT).long()
    centre, side = units[..., :2] + pad * shapes.UNIT, units[..., 2]
    turn = (scenes.angle.double() / (2 * math.pi) * shapes.TURNS).round().long()
    flat = (scenes.label, centre, side, turn)
    large = shapes.masks(config.classes, *(x.flatten(0, 1) for x in flat), size + 2 * pad)
    large = large.unflatten(0, (b, n)) if n else large.view(b, 0, size + 2 * pad, size + 2 * pad)
    assert torch.equal(large.sum((2, 3)), scenes.mask.sum((2, 3)))
    sides = scenes.side[here] / size
    if len(sides):
        assert sides.min() >= config.object_size[0] - 1 / 8 / size
        assert sides.max() <= config.object_size[1] + 1 / 8 / size

    # colours
    assert (scenes.background < 128).all()
    colour = scenes.colour[here].long()
    back = scenes.background[:, None].expand(-1, n, -1)[here].long()
    if config.near_background is not None:
        assert ((colour - back).abs() <= config.near_background).all()
        assert (colour != back).any(-1).all()
    elif config.kind == "random-colours":
        assert (colour >= 128).all()
    else:
        want = [COLOURS[config.classes[k]] for k in scenes.label[here]]
        assert colour.tolist() == [list(c) for c in want]

    # the model's layers
    steps = int(scenes.count.max()) + 2
    layers = scenes.layers(steps)
    assert layers.shape == (b, steps, 1, size, size) and layers.dtype == torch.float32
    assert (layers.sum(1) == 1).all()
    assert torch.equal(layers[:, -1, 0].bool(), scenes.background_region)


@given(config=configs())
@settings(max_examples=20, deadline=None)
def test_a_scene_does_not_depend_on_its_batch(config):
    renderer = SceneRenderer(config, 5)
    indices = torch.tensor([9, 0, 7, 1 << 31, 3])
    together = renderer.render(indices)
    for place, index in enumerate(indices):
        alone = renderer.render(index[None])
        for f in dataclasses.fields(Scenes):
            assert torch.equal(getattr(alone, f.name)[0], getattr(together, f.name)[place])


def test_scenes_are_the_same_as_ever():
    """Frozen numbers: a change of these changes everybody's data."""
    scenes = render(SceneConfig(kind="random-colours"), 2, seed=3)
    assert scenes.label.tolist() == FROZEN["label"]
    assert scenes.background.tolist() == FROZEN["background"]
    assert scenes.position.tolist() == FROZEN["position"]
    assert scenes.colour[0].tolist() == FROZEN["colour"]


def test_seeds_and_indices_give_different_scenes():
    config = SceneConfig(size=16)
    images = torch.cat([render(config, 300, seed).image for seed in (0, 1, -1, 1 << 32)])
    assert len(images.flatten(1).unique(dim=0)) == 1200


def test_paper_scenes_are_uniform():
    """Every draw of C.1 against the uniform distribution, by chi-square at about 5 sigma."""

    def uniform(values, bins):
        got = torch.bincount(values.flatten().long(), minlength=bins).double()
        assert len(got) == bins
        mean = got.sum() / bins
        chi2 = float(((got - mean) ** 2 / mean).sum())
        assert abs(chi2 - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1)) + 5

    scenes = render(SceneConfig(kind="random-colours", size=16, object_size=(0.5, 0.5)), 6000)
    uniform(scenes.background, 128)
    uniform(scenes.colour - 128, 128)
    uniform(scenes.position[..., 0] * 16 - 64, 129)  # 4 to 12 pixels in steps of 1/16
    uniform(scenes.position[..., 1] * 16 - 64, 129)
    uniform((scenes.label * torch.tensor([9, 3, 1])).sum(1).unique(return_inverse=True)[1], 6)
    assert (scenes.label.sort(1).values == torch.arange(3)).all()
    where = scenes.position.flatten(1) // 4 - 1  # x and y of one object, and of two
    uniform((where.clamp(max=1) * 2 ** torch.arange(6)).sum(1), 64)

    kinds = SceneConfig(
        size=16, selection="random", min_objects=0, objects=2, rotate=True, object_size=(0.25, 0.5)
    )
    scenes = render(kinds, 6000)
    here = scenes.label >= 0
    uniform(scenes.count, 3)
    uniform(scenes.label[here], 3)
    uniform((scenes.angle[here] / (2 * math.pi) * 256).round(), 256)
    uniform(scenes.side[here] * 8 - 32, 33)


def test_classes_of_each_selection():
    base = SceneConfig(size=16, objects=5, class_weights=(1, 0, 3))
    each = render(base, 2000).label
    assert all((each == k).any(1).all() for k in range(3))  # each class once ...
    assert ((each == 1).sum(1) == 1).all()  # ... and two more, never of weight 0
    assert (each == 2).double().mean() == pytest.approx(1 / 5 + 2 / 5 * 3 / 4, abs=0.02)
    assert (each[:, 0] == 1).double().mean() == pytest.approx(1 / 5, abs=0.05)  # depth is free

    free = render(dataclasses.replace(base, selection="random"), 2000).label
    assert [(free == k).double().mean().item() for k in range(3)] == pytest.approx(
        [0.25, 0, 0.75], abs=0.03
    )
    same = render(dataclasses.replace(base, selection="same"), 2000).label
    assert (same == same[:, :1]).all()
    assert (same[:, 0] == 2).double().mean() == pytest.approx(0.75, abs=0.05)

    few = render(SceneConfig(size=16, objects=2, classes=SHAPES), 2000).label
    assert (few[:, 0] != few[:, 1]).all()
    assert torch.bincount(few.flatten()).double().div(4000).tolist() == pytest.approx(
        [1 / 7] * 7, abs=0.03
    )


def test_places_are_even_from_edge_to_edge():
    """Against where masks are: squares of six pixels in sixteen start at 0, 5 and 10."""
    config = SceneConfig(size=16, objects=1, classes=("square",), places=3)
    mask = render(config, 400).mask[:, 0]
    starts = {(int(m.any(1).int().argmax()), int(m.any(0).int().argmax())) for m in mask}
    assert starts == {(i, j) for i in (0, 5, 10) for j in (0, 5, 10)}


def test_near_background_covers_the_whole_range():
    scenes = render(SceneConfig(size=8, objects=8, near_background=1, selection="random"), 4000)
    away = scenes.colour.long() - scenes.background[:, None].long()
    inside = (scenes.background > 0).all(1)
    kinds, counts = (away[inside] + 1).flatten(0, 1).unique(dim=0, return_counts=True)
    assert len(kinds) == 26 and counts.max() < 1.3 * counts.min()


def test_layers_drop_empty_slots_and_need_enough_steps():
    scenes = render(SceneConfig(size=16, objects=4, min_objects=0), 50)
    # a slot may be empty anywhere when scenes come from elsewhere
    holes = dataclasses.replace(
        scenes,
        label=torch.cat([torch.full((50, 1), -1), scenes.label], 1),
        region=torch.cat([torch.zeros_like(scenes.region[:, :1]), scenes.region], 1),
    )
    assert torch.equal(holes.layers(5), scenes.layers(5))
    assert torch.equal(scenes.layers(7)[:, :4], scenes.layers(5)[:, :4])
    with pytest.raises(EconError, match="expected at least 5 layers, for 4 objects.*got 4"):
        scenes.layers(4)


def test_no_object():
    scenes = render(SceneConfig(objects=0), 2)
    assert scenes.mask.shape == (2, 0, 32, 32) and scenes.background_region.all()
    assert torch.equal(scenes.layers(1), torch.ones(2, 1, 1, 32, 32))
    assert len(render(SceneConfig(), 0)) == 0


def test_to_moves_every_tensor():
    moved = render(SceneConfig(size=16), 2).to("meta")
    assert all(getattr(moved, f.name).is_meta for f in dataclasses.fields(Scenes))


def test_hash_equals_python_integers():
    def mix(x):
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    for seed, index in ((0, 0), (12345, 77), (2**63 + 11, 2**45 + 3), (-1, 2**32)):
        a = mix(index % 2**32 ^ mix(seed % 2**32 ^ 0x5BD1E995))
        b = mix(a ^ mix(index >> 32 ^ (seed >> 32) % 2**32 ^ 0x3C6EF372))
        want = [mix(mix((a + d * 0x9E3779B9) % 2**32) ^ b) for d in range(5)]
        assert counter_rng.bits(seed, torch.tensor([index]), 5).tolist() == [want]


def test_seeds_whose_first_bits_agree_have_orders_of_their_own():
    same, index = (68326, 81123), torch.tensor([0])
    assert counter_rng.bits(same[0], index, 1) == counter_rng.bits(same[1], index, 1)
    first, second = (counter_rng.permutation(seed, 9, 0).tolist() for seed in same)
    assert first != second and sorted(first) == sorted(second) == list(range(9))


@pytest.mark.parametrize(("change", "message"), [
    ({"classes": ("circle", "blob")}, r"classes among circle, .*, got 'blob'"),
    ({"classes": ()}, "at least one class"),
    ({"classes": ("circle", "circle")}, "each only once"),
    ({"objects": 9}, "expected 0 to 8 objects, got 9"),
    ({"objects": -1}, "expected 0 to 8 objects, got -1"),
    ({"min_objects": 4}, "min_objects from 0 to objects, which is 3, got 4"),
    ({"min_objects": -1}, "got -1"),
    ({"size": 33}, "multiple of 8 up to 1024, got 33: try 32"),
    ({"size": 0}, "got 0: try 8"),
    ({"size": 2000}, "got 2000: try 1024"),
    ({"object_size": (0.0, 0.5)}, r"in \(0, 1\], got 0.0 0.5"),
    ({"object_size": (0.5, 0.4)}, "minimum and maximum fraction"),
    ({"object_size": (0.5, 1.1)}, "got 0.5 1.1"),
    ({"object_size": (math.nan, 0.5)}, "got nan"),
    ({"object_size": (0.05, 0.5)}, "at least 3 pixels, got .* = 1.6 pixels: raise .* 0.09375"),
    ({"object_size": (0.5, 0.8), "rotate": True}, "up to 0.7 with rotate"),
    ({"class_weights": (1.0, 2.0)}, "each of the 3 classes, got 2 weights"),
    ({"class_weights": (1.0, -2.0, 1.0)}, "not negative"),
    ({"class_weights": (0.0, 0.0, 0.0)}, "not all 0"),
    ({"class_weights": (math.inf, 0.0, 0.0)}, "finite"),
    ({"near_background": 0}, "near_background from 1 to 255, got 0"),
    ({"places": 1}, "places from 2 to 1024, got 1"),
    ({"kind": "tetrominoes", "classes": ("I", "O"), "size": 40, "places": 3}, "without places"),
    ({"near_background": 256}, "got 256"),
    ({"kind": "grey"}, "one of unique-colours, random-colours, .* for scenes.kind, got 'grey'"),
    ({"selection": "all"}, "for scenes.selection, got 'all'"),
])  # fmt: skip
def test_wrong_configurations(change, message):
    with pytest.raises(EconError, match=message):
        SceneConfig(**change)


FROZEN = {
    "label": [[0, 2, 1], [2, 0, 1]],
    "background": [[89, 69, 74], [126, 4, 7]],
    "position": [
        [[20.9375, 16.375], [10.25, 7.5], [10.25, 9.5]],
        [[20.9375, 8.1875], [13.875, 22.1875], [7.4375, 12.9375]],
    ],
    "colour": [[132, 244, 226], [131, 202, 214], [229, 249, 162]],
}
