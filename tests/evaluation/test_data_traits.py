"""What is said of small sets whose objects and edges are known."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from econ_pyro.data.readers.numpy_files import save_npz
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.data.synthetic.renderer import Scenes
from econ_pyro.evaluation import data_report
from econ_pyro.evaluation.data_report import advise, inspect, report
from econ_pyro.evaluation.data_traits import traits_of, turning
from econ_pyro.scene_config import SCENE_SETS, SceneConfig

N = 60
FLAT = SceneConfig(kind="random-colours")


def shaded(images):
    """Objects darker towards the top; the background is below one half in every channel."""
    ramp = torch.linspace(0.6, 1, images.shape[2])[:, None]
    return torch.where(images > 0.5, images * ramp, images)


def noisy(images):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 0.03 * noise).clamp(0, 1)


def blurred(images):
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def patterned(images):
    """A background of stripes."""
    stripes = torch.linspace(0, 12, images.shape[3]).sin() * 0.2 + 0.3
    return torch.where(images.amax(1, keepdim=True) > 0.5, images, stripes)


def scenes_of(config, change=lambda images: images):
    source = GeneratedScenes(config, 0, N)
    scenes = source.scenes(torch.arange(N))
    return dataclasses.replace(scenes, image=change(scenes.image)), source.classes


def look(tmp_path, config, change=lambda images: images):
    scenes, classes = scenes_of(config, change)
    save_npz(tmp_path / "a.npz", scenes, classes)
    seen = inspect(tmp_path / "a.npz", "crop", N)
    return seen, advise(seen, "crop")


def words(advice):
    return {reason.split(":")[0] for reason in advice.beyond}


SETS = [
    (FLAT, None, "quick", set()),
    (dataclasses.replace(FLAT, rotate=True), None, "turned-random-colours", set()),
    (dataclasses.replace(FLAT, object_size=(0.2, 0.4)), None, "quick", set()),
    (FLAT, shaded, "sprites", {"shading"}),
    (FLAT, noisy, "sprites", {"noise"}),
    (FLAT, blurred, "sprites", {"blended edges"}),
    (FLAT, patterned, "sprites", {"background of several colours"}),
    (dataclasses.replace(FLAT, object_size=(0.1, 0.12)), None, "quick", set()),
]


@pytest.mark.parametrize(("config", "change", "preset", "beyond"), SETS)
def test_each_kind_of_set_is_told_from_the_others(tmp_path, config, change, preset, beyond):
    seen, advice = look(tmp_path, config, change or (lambda images: images))
    assert f"svi_train.py {preset} " in advice.command
    found = words(advice)
    if change is patterned:  # stripes are smooth shades, too
        found -= {"shading", "noise", "blended edges"}
    if config.object_size[1] < 0.2:
        assert found == {"small objects"} and "--min-area" in advice.beyond[0]
    else:
        assert found == beyond
    text = report(seen, advice, "crop")
    assert ("beyond the model:" in text) == bool(advice.beyond)
    assert all(reason in text for reason in advice.beyond)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("multi-dsprites", "--model.size 64 --model.num-slots 6 --model.num-experts 4"),
        ("multi-dsprites-coloured", "--model.size 64 --model.num-slots 5 --model.num-experts 4"),
        ("tetrominoes", "--model.size 40 --model.num-slots 4 --model.num-experts 8"),
        ("clevr-like", "--model.size 64 --model.num-slots 7 --model.num-experts 4"),
        ("textured", "--model.size 32 --model.num-slots 4 --model.num-experts 4"),
    ],
)
def test_the_fields_sets_lead_to_their_presets(tmp_path, kind, options):
    _, advice = look(tmp_path, SCENE_SETS[kind])
    preset = "multi-dsprites" if kind.startswith("multi") else kind
    assert f"svi_train.py {preset} " in advice.command and options in advice.command
    assert "--model.expert.latents.reach 1" in advice.command
    assert words(advice) == set()
    assert "latents.angle" not in advice.command  # the presets have it
    assert "--resample" not in advice.command  # nothing is resized


def spotted(images):
    """Objects with spots: their background is below one half in every channel."""
    spots = torch.rand(len(images), 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.where(images > 0.5, images * F.interpolate(spots, images.shape[2:]), images)


@pytest.mark.parametrize("looks", [False, True])
def test_objects_of_several_colours_are_cut_out_of_plain_grounds(tmp_path, looks, monkeypatch):
    assert "svi_train.py sprites " in look(tmp_path, FLAT, spotted)[1].command  # too few images
    monkeypatch.setattr(data_report, "_ENOUGH", N)
    shapes = ("cross", "circle", "ellipse")
    scenes, classes = scenes_of(dataclasses.replace(FLAT, classes=shapes), spotted)
    if looks:  # all are of one class
        scenes = dataclasses.replace(scenes, label=scenes.label.clamp(max=0))
        classes = ("object",)
    save_npz(tmp_path / "b.npz", scenes, classes)
    advice = advise(inspect(tmp_path / "b.npz", "crop", N), "crop")
    assert f"svi_train.py {'mnist' if looks else 'emoji'} " in advice.command
    assert "several looks in a class" not in words(advice)
    assert "latents.angle" not in advice.command


def test_textures_of_many_colours_are_told_from_patterns(tmp_path):
    """Noise of all colours on objects, and a little of one on the ground."""
    shapes, side = ("cross", "circle", "ellipse"), 64
    scenes, classes = scenes_of(dataclasses.replace(FLAT, size=side, classes=shapes))
    noise = torch.rand(2, N, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    noise = F.interpolate(noise.flatten(0, 1), (side, side), mode="bilinear").unflatten(0, (2, N))
    image = torch.where(scenes.region.any(1, keepdim=True), noise[0], 0.4 + 0.3 * noise[1, :, :1])
    for label, preset in ((scenes.label, "textured"), (0 * scenes.label, "freedoom")):
        changed = dataclasses.replace(scenes, image=image, label=label)
        save_npz(tmp_path / "a.npz", changed, classes[: int(label.max()) + 1])
        advice = advise(inspect(tmp_path / "a.npz", "crop", N), "crop")
        assert f"svi_train.py {preset} " in advice.command and not words(advice)
        assert "latents.angle" not in advice.command
    assert advice.size == 64 and "that of the preset; 32 would do" in advice.reasons[0]
    np.save(tmp_path / "a.npy", (image * 255).round().byte().permute(0, 2, 3, 1).numpy())
    without_truth = advise(inspect(tmp_path / "a.npy", "crop", N), "crop")
    assert "svi_train.py freedoom " in without_truth.command


def test_patterns_are_no_objects(tmp_path):
    images = scenes_of(SCENE_SETS["textured"])[0].image
    np.save(tmp_path / "a.npy", (images * 255).round().byte().permute(0, 2, 3, 1).numpy())
    seen = inspect(tmp_path / "a.npy", "crop", N)
    assert seen.traits.components > 16
    advice = advise(seen, "crop")
    assert "svi_train.py textured " in advice.command and advice.slots == 4 and not advice.beyond
    # of images four times as large, an hour would not be enough for as many
    many = np.tile(np.load(tmp_path / "a.npy"), (4, 1, 1, 1))
    np.save(tmp_path / "b.npy", many.repeat(2, 1).repeat(2, 2))
    large = advise(inspect(tmp_path / "b.npy", "crop", 4 * N), "crop")
    assert "svi_train.py textured " in large.command and "--model.size 64 " in large.command
    assert "--recipe.shape-clusters 1000 " in large.command
    np.save(tmp_path / "b.npy", many)
    assert "clusters" not in advise(inspect(tmp_path / "b.npy", "crop", 4 * N), "crop").command


def test_hard_edges_are_resized_by_nearest_pixels(tmp_path):
    scenes, classes = scenes_of(SCENE_SETS["tetrominoes"])
    image = (scenes.image * 255).round().byte().permute(0, 2, 3, 1).numpy()[:, 2:37, 2:37]
    mask = scenes.mask.numpy()[:, :, 2:37, 2:37]
    np.savez(tmp_path / "b.npz", image=image, amodal=mask, label=scenes.label, classes=classes)
    seen = inspect(tmp_path / "b.npz", "crop", N)
    advice = advise(seen, "crop")
    assert set(seen.info.original_sizes) == {(35, 35)} and advice.size == 32
    assert "--resample nearest" in advice.command and "tetrominoes" in advice.command


def test_many_objects_are_seen_without_masks(tmp_path):
    """36 invaders on black, of which no file says how many they are."""
    images = np.zeros((20, 128, 128, 3), np.uint8)
    for row, column in np.ndindex(6, 6):
        y, x = 8 + 20 * row, 8 + 20 * column
        images[:, y : y + 12, x : x + 12] = 40 + 30 * row, 250 - 30 * column, 200
    np.save(tmp_path / "a.npy", images)
    seen = inspect(tmp_path / "a.npy", "crop", 20)
    advice = advise(seen, "crop")
    assert seen.traits.components == 36 and advice.slots == 37
    assert "36 objects: models are trained with 8 at most" in advice.beyond


def test_agreement_of_turned_and_of_different_shapes():
    square = scenes_of(dataclasses.replace(FLAT, classes=("square",), objects=1, size=64))[0]
    plain = turning([square])
    assert plain is not None and min(plain) > 0.95
    one = dataclasses.replace(FLAT, classes=("ellipse",), objects=1, size=64)
    turned = turning([scenes_of(dataclasses.replace(one, rotate=True))[0]])
    assert turned is not None and turned[0] < 0.75 and turned[1] > 0.85
    # crosses and circles under one label do not agree at any angle
    mixed = dataclasses.replace(
        FLAT, classes=("cross", "circle", "ellipse"), objects=1, selection="random", size=64
    )
    scenes = scenes_of(mixed)[0]
    label = torch.where(scenes.label >= 0, 0, scenes.label)
    looks = turning([Scenes(**{**vars(scenes), "label": label})])
    assert looks is not None and looks[1] < 0.8
    assert turning([]) is None


def test_light_on_the_ground_is_smooth_and_has_no_colour():
    falls = torch.linspace(0.3, 0.8, 32).expand(4, 3, 32, 32)
    assert traits_of(falls).lit > 0.1
    assert traits_of(falls[..., torch.randperm(32)]).lit < 0  # stripes
    coloured = torch.stack([falls[:, 0], falls[:, 0].mT, falls[:, 0].flip(2)], 1)
    assert traits_of(coloured).lit < 0
    assert traits_of(torch.full((4, 3, 32, 32), 0.5)).lit == 0


def test_traits_of_images_made_by_hand():
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, 4:12, 4:12] = 0.8
    flat = traits_of(images)
    assert (flat.hard_edges, flat.blended, flat.shading, flat.noise) == (1, 0, 0, 0)
    assert flat.plain == flat.components == flat.colours == 1
    soft = images.clone()
    soft[:, :, 3, 4:12] = 0.4  # one side of four: half way between background and object
    # pixels between two colours, across and down: 2 per row or column on each hard side
    assert traits_of(soft).blended == pytest.approx(8 / (2 * 8 * 4 - 8 + 4), abs=0.03)
    images[:, :, 4:12, 4:12] = torch.linspace(0.5, 0.8, 8)[:, None]
    assert traits_of(images).shading > 0.8
