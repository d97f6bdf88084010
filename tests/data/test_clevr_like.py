"""Shaded scenes against sphere tracing: steps along rays by the distance to each solid."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from econ_pyro.data.synthetic.clevr_like import ALBEDOS, GROUND, ClevrSet
from econ_pyro.data.synthetic.dataset import StoredScenes, write_dataset
from econ_pyro.data.synthetic.renderer import SceneRenderer
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SCENE_SETS, SceneConfig

CLEVR = SCENE_SETS["clevr-like"]
CAMERA = np.array([0, -12 * math.cos(math.radians(33)), 12 * math.sin(math.radians(33))])


def layout_of(config, n, seed=0):
    return ClevrSet(config).sample(config, seed, torch.arange(n))


def distance(name, p, radius):
    """Signed distance of points ``(..., 3)`` from the surface of a solid at the origin."""
    if name == "sphere":
        return np.linalg.norm(p, axis=-1) - radius
    if name == "cube":
        q = np.abs(p) - radius / math.sqrt(2)
    else:
        q = np.stack([np.hypot(p[..., 0], p[..., 1]) - radius, np.abs(p[..., 2]) - radius], -1)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)


def traced(layout, b, n, origin, direction):
    """Where rays meet object n, infinity if they do not."""
    name = CLEVR.classes[layout.label[b, n]]
    radius = float(layout.radius[b, n])
    height = radius / math.sqrt(2) if name == "cube" else radius
    centre = np.array([*layout.place[b, n].tolist(), height])
    angle = 2 * math.pi * layout.turn[b, n].item() / 256
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    o, d = (origin - centre) @ turn.T, direction @ turn.T
    d = d / np.linalg.norm(d, axis=-1, keepdims=True)
    t, least = np.zeros(d.shape[:-1]), np.full(d.shape[:-1], np.inf)
    for _ in range(150):
        away = distance(name, o + t[..., None] * d, radius)
        least = np.minimum(least, away)
        t += np.maximum(away, 0)
    return np.where(least < 1e-4, t, np.inf)


def view(size, pad=0):
    """Directions of the rays through the centres of pixels, and of those around the image."""
    at = (np.arange(-pad, size + pad) + 0.5) * 2 / size - 1
    right, down = np.meshgrid(at * 3.4 / 12, at * 3.4 / 12)
    c, s = math.cos(math.radians(33)), math.sin(math.radians(33))
    return np.stack([right, c - down * s, -s - down * c], -1)


def test_masks_and_order_are_those_of_rays():
    scenes, layout = SceneRenderer(CLEVR, 0).render(torch.arange(10)), layout_of(CLEVR, 10)
    pad, rays, wrong = 6, view(64, 6), 0
    inner = slice(pad, -pad)
    for b in range(10):
        count = int(scenes.count[b])
        depths, owner = np.full((7, 64, 64), np.inf), np.full((64, 64), 6)
        depths[6] = 1e6  # the ground
        for n in range(count):
            t = traced(layout, b, n, CAMERA, rays)
            assert np.isfinite(t).sum() == np.isfinite(t[inner, inner]).sum()  # nothing is cut off
            depths[n] = t[inner, inner]
            wrong += (np.isfinite(depths[n]) != scenes.mask[b, n].numpy()).sum()
            owner[scenes.region[b, n].numpy()] = n
        wrong += (owner != depths.argmin(0)).sum()
    assert wrong <= 4  # pixels at the very edges, where the tracing stops early


def test_masks_hold_regions_which_part_the_image():
    scenes = SceneRenderer(CLEVR, 3).render(torch.arange(100))
    assert not (scenes.region & ~scenes.mask).any()
    assert ((scenes.region.sum(1) + scenes.background_region.long()) == 1).all()
    hidden = scenes.mask & ~scenes.region
    for n in range(6):
        front = scenes.mask[:, :n].any(1)
        assert torch.equal(hidden[:, n], scenes.mask[:, n] & front)
    assert hidden.any()
    here = scenes.label >= 0
    assert torch.equal(scenes.mask.flatten(2).any(2), here)
    seen = scenes.region.sum((2, 3))[here] / scenes.mask.sum((2, 3))[here]
    assert (seen == 0).double().mean() < 0.01 and seen.double().mean() > 0.85


def test_objects_stand_apart():
    layout = layout_of(CLEVR, 300)
    here = layout.label >= 0
    place, radius = layout.place.double(), layout.radius.double()
    apart = (place[:, :, None] - place[:, None]).norm(dim=-1)
    clear = apart - radius[:, :, None] - radius[:, None]
    both = here[:, :, None] & here[:, None] & ~torch.eye(6, dtype=torch.bool)
    assert clear[both].min() > 0.24


def test_distribution_of_scenes():
    layout = layout_of(CLEVR, 2000)
    here = layout.label >= 0
    assert torch.equal(here, here.sort(1, descending=True).values)  # empty slots are last
    count = torch.bincount(here.sum(1), minlength=7).double() / 2000
    assert count.tolist() == pytest.approx([0, 0, 0, *[0.25] * 4], abs=0.04)
    for values, kinds in ((layout.label, 3), (layout.variant, 4)):
        share = torch.bincount(values[here], minlength=kinds).double() / here.sum()
        assert share.tolist() == pytest.approx([1 / kinds] * kinds, abs=0.04)
    colours, counts = layout.colour[here].unique(dim=0, return_counts=True)
    assert {tuple(c) for c in colours.tolist()} == set(ALBEDOS.values())
    assert counts.min() > 0.8 * counts.max()
    radii = layout.radius[here].unique()
    assert radii.tolist() == pytest.approx([6.8 / 2 * f for f in CLEVR.object_size])
    assert (layout.turn[here & (layout.label == 1)] > 0).double().mean() > 0.98
    assert not layout.turn[layout.label != 1].any()
    scenes = SceneRenderer(CLEVR, 0).render(torch.arange(50))
    middle = torch.tensor([GROUND[0]] * 3, dtype=torch.uint8)
    assert (scenes.background == middle).all()
    for b, n in torch.nonzero(scenes.label == 0).tolist():  # spheres: their box is the diameter
        y, x = np.nonzero(scenes.mask[b, n].numpy())
        centre = [(x.min() + x.max() + 1) / 2, (y.min() + y.max() + 1) / 2]
        assert scenes.position[b, n].tolist() == pytest.approx(centre, abs=1.0)
        assert float(scenes.side[b, n]) == pytest.approx(np.ptp(x) + 1, abs=1.5)


def alone(**changes):
    """A scene of one large object in the middle, lit from the left, and its empty ground."""
    config = dataclasses.replace(CLEVR, objects=1, min_objects=1)
    objects = ClevrSet(config)
    values = {
        "label": torch.tensor([[0]]), "place": torch.zeros(1, 1, 2),
        "glossy": torch.tensor([[False]]), "radius": torch.tensor([[0.7]]),
        "turn": torch.tensor([[0]]), "colour": torch.tensor([[ALBEDOS["blue"]]]),
        "lamp": torch.tensor([[-5.0, -3.0, 7.0]]),
    }  # fmt: skip
    layout = dataclasses.replace(layout_of(config, 1), **values | changes)
    mask, image = objects.draw(layout)
    empty = dataclasses.replace(layout, label=torch.tensor([[-1]]))
    return layout, mask[0, 0].numpy(), image[0].numpy(), objects.draw(empty)[1][0].numpy()


@pytest.mark.parametrize("label", [0, 1, 2])
def test_shadows_are_those_of_the_lamp(label):
    layout, mask, image, ground = alone(label=torch.tensor([[label]]))
    darker = (ground - image)[0]
    assert np.abs(darker[~mask]).max() > 0.15
    rays = view(64)
    point = CAMERA + rays * (-CAMERA[2] / rays[..., 2:])
    towards = layout.lamp[0].double().numpy() - point
    shadow = np.isfinite(traced(layout, 0, 0, point, towards))
    free = ~mask
    found = darker > 0.08
    union = ((found | shadow) & free).sum()
    assert ((found & shadow & free).sum() / union > 0.75) and union > 40
    assert np.abs(darker[free & ~shadow]).max() < 0.25  # the penumbra
    y, x = np.nonzero(found & free)
    assert x.mean() > 34  # away from the lamp


def test_light_comes_from_the_lamp_and_gloss_shines():
    _, mask, matt, _ = alone()
    _, _, glossy, _ = alone(glossy=torch.tensor([[True]]))
    y, x = np.nonzero(mask)
    left, right = x < x.mean() - 3, x > x.mean() + 3
    blue = matt[2, y, x]
    assert blue[left].mean() > 1.3 * blue[right].mean()
    assert np.diff(matt[2, 30, x.min() + 1 : x.max()]).max() < 0.2  # smooth
    inside = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1)
    inside &= np.roll(mask, -2, 1)
    assert matt[:, inside].min(0).max() < 0.4 and glossy[:, inside].min(0).max() > 0.85
    white = np.argmax(np.where(inside, glossy.min(0), 0))
    assert white % 64 < x.mean() and white // 64 < y.mean()


def test_edges_are_blended():
    """Pixels at the edge have all shares of ground, whether the mask holds them or not."""
    _, mask, image, ground = alone()
    red, lit = image[0] ** 2, mask.any(1)  # linear; the left edge lies in no shadow
    shares = []
    for y in np.nonzero(lit)[0][3:-3]:
        x = np.nonzero(mask[y])[0][0]
        inside, outside = red[y, x + 2], ground[0, y, x - 1] ** 2
        shares += [(red[y, x + i] - inside) / (outside - inside) for i in (-1, 0)]
    part = [share for share in shares if 0.15 < share < 0.85]
    assert len(part) > 0.3 * len(shares) and np.std(part) > 0.1


def test_a_crowd_keeps_to_its_room():
    config = dataclasses.replace(CLEVR, object_size=(0.4, 0.4), min_objects=None)
    layout = layout_of(config, 40)
    here = layout.label >= 0
    assert (here.sum(1) < 6).any() and (here.sum(1) > 0).all()
    scenes = SceneRenderer(config, 0).render(torch.arange(40))
    assert torch.equal(scenes.mask.flatten(2).any(2), here)
    assert (scenes.colour[~here] == 0).all()
    none = SceneRenderer(dataclasses.replace(CLEVR, objects=0, min_objects=0), 0)
    assert none.render(torch.arange(2)).mask.shape == (2, 0, 64, 64)
    assert len(none.render(torch.arange(0))) == 0


def test_objects_near_the_colour_of_the_ground():
    config = dataclasses.replace(CLEVR, near_background=20)
    scenes = SceneRenderer(config, 0).render(torch.arange(20))
    away = (scenes.colour.int() - GROUND[0]).abs().amax(-1)[scenes.label >= 0]
    assert 15 < away.max() <= 20


def test_scenes_are_stored_without_loss(tmp_path):
    config = dataclasses.replace(CLEVR, size=32)
    write_dataset(tmp_path, config, 5, 6, 2)
    stored = StoredScenes(tmp_path)
    found, drawn = stored.scenes(torch.arange(6)), SceneRenderer(config, 5).render(torch.arange(6))
    for field in dataclasses.fields(drawn):
        assert torch.equal(getattr(found, field.name), getattr(drawn, field.name)), field.name
    assert stored.classes == ("sphere", "cube", "cylinder")


def test_the_kind_alone_gives_solids():
    config = SceneConfig(kind="clevr-like", background="grey")
    assert SceneRenderer(config, 0).config.classes == ("sphere", "cube", "cylinder")
    with pytest.raises(EconError, match="one class weight for each of the 3 classes, got 2"):
        dataclasses.replace(config, class_weights=(1.0, 2.0))
    one = dataclasses.replace(config, classes=("cube",), objects=1)
    assert (SceneRenderer(one, 0).render(torch.arange(3)).label == 0).all()


@pytest.mark.parametrize(("change", "message"), [
    ({"objects": 7}, "at most 6 objects in clevr-like scenes, for which there is room, got 7"),
    ({"background": "any"}, "a grey ground for clevr-like scenes, got background any: set"),
    ({"object_size": (0.2, 0.5)}, "clevr-like objects of up to 0.4 of the image, got 0.5"),
    ({"places": 3}, "clevr-like scenes without places, got 3"),
    ({"sprites": "folder"}, "clevr-like without sprites, got folder"),
    ({"classes": ("circle",)}, "classes among sphere, cube, cylinder, got 'circle'"),
])  # fmt: skip
def test_wrong_configurations(change, message):
    with pytest.raises(EconError, match=message):
        SceneRenderer(dataclasses.replace(CLEVR, **change), 0)
