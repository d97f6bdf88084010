"""Dataset folders: what is written is what is drawn, whole or not at all."""

import dataclasses
import errno
import json

import numpy as np
import pytest
import torch

from econ_pyro import cli
from econ_pyro.config import from_dict
from econ_pyro.data.splits import open_split
from econ_pyro.data.synthetic import dataset
from econ_pyro.data.synthetic.dataset import StoredScenes
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.data.synthetic.renderer import SceneRenderer, Scenes
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig
from econ_pyro.scripts import make_dataset

TINY = ["--kind", "random-colours", "--size", "16", "--n", "7", "--n-valid", "3", "--seed", "5"]
CONFIG = SceneConfig(kind="random-colours", size=16)


def assert_same(a: Scenes, b: Scenes):
    for f in dataclasses.fields(Scenes):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert x.dtype == y.dtype and torch.equal(x, y), f.name


@pytest.fixture
def out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dataset, "_CHUNK", 3)
    make_dataset.main([str(tmp_path / "ds"), *TINY])
    assert "7 training and 3 validation scenes" in capsys.readouterr().out
    return tmp_path / "ds"


def test_stored_scenes_are_those_generated(out):
    split = open_split(out, SceneConfig(), 16, seed=0)
    assert (len(split.train), len(split.valid)) == (7, 3)
    assert split.train.classes == CONFIG.classes
    for name, source in (("train", split.train), ("valid", split.valid)):
        generated = GeneratedScenes(CONFIG, 5, len(source), name)
        indices = torch.arange(len(source)).flip(0)
        assert_same(source.scenes(indices), generated.scenes(indices))
        assert torch.equal(source.images(indices), generated.images(indices))
        assert source.images(indices).is_contiguous()


def test_files_are_plain_arrays_with_a_description(out):
    about = json.loads((out / "dataset.json").read_text())
    assert (about["format"], about["seed"], about["train"], about["valid"]) == (1, 5, 7, 3)
    assert from_dict(SceneConfig, about["config"], "config") == CONFIG
    assert set(about["versions"]) == {"econ_pyro", "torch", "numpy", "python"}
    image = np.load(out / "train" / "image.npy")
    assert image.shape == (7, 16, 16, 3) and image.dtype == np.uint8
    mask = np.unpackbits(np.load(out / "valid" / "mask.npy"), axis=-1)
    assert mask.shape == (3, 3, 16, 16)
    assert [p.name for p in out.parent.iterdir()] == ["ds"]
    assert (out.stat().st_mode & 0o777) == 0o755


def test_every_option_of_a_scene(tmp_path):
    options = (
        "--objects 2 --min-objects 1 --classes star heart --class-weights 1 3 --selection random "
        "--object-size 0.3 0.6 --rotate --near-background 40 --places 5 --size 24 "
        "--n 2 --n-valid 1"
    )
    make_dataset.main([str(tmp_path / "ds"), *options.split()])
    stored = StoredScenes(tmp_path / "ds")
    config = SceneConfig(
        objects=2, min_objects=1, classes=("star", "heart"), class_weights=(1, 3),
        selection="random", object_size=(0.3, 0.6), rotate=True, near_background=40, places=5,
        size=24,
    )  # fmt: skip
    indices = torch.arange(2)
    assert_same(stored.scenes(indices), SceneRenderer(config, 0).render(indices))
    make_dataset.main([str(tmp_path / "none"), *TINY, "--objects", "0"])
    assert StoredScenes(tmp_path / "none").scenes(indices).mask.shape == (2, 0, 16, 16)


def test_an_existing_folder_is_replaced_only_when_told(out, tmp_path):
    before = (out / "train" / "image.npy").read_bytes()
    with pytest.raises(EconError, match="ds, which has files: add --overwrite"):
        make_dataset.main([str(out), *TINY])
    assert (out / "train" / "image.npy").read_bytes() == before
    make_dataset.main([str(out), *TINY, "--seed", "6", "--overwrite"])
    assert (out / "train" / "image.npy").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(EconError, match="a dataset to replace, got .*mine"):
        make_dataset.main([str(tmp_path / "mine"), *TINY, "--overwrite"])
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(EconError, match="file"):
        make_dataset.main([str(tmp_path / "file"), *TINY, "--overwrite"])


@pytest.mark.parametrize(("error", "status", "line"), [
    (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied", "ds"), 2, "Permission denied"),
    (KeyboardInterrupt(), 130, "stopped"),
    (EconError("this", "that"), 2, "expected this, got that"),
])  # fmt: skip
def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch, capsys, error, status, line):
    monkeypatch.setattr(dataset, "_CHUNK", 3)
    draw, calls = SceneRenderer.render, []

    def fail(self, indices):
        calls.append(indices)
        if len(calls) == 2:
            raise error
        return draw(self, indices)

    monkeypatch.setattr(SceneRenderer, "render", fail)
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: make_dataset.main([str(tmp_path / "new" / "ds"), *TINY]))
    assert stop.value.code == status
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "message"), [
    (["--n", "0"], "n of at least 1 and below 2\\^31, got 0"),
    (["--n-valid", "-1"], "n_valid of at least 1"),
    (["--size", "30"], "multiple of 8"),
    (["--classes", "blob"], "classes among circle"),
    (["--min-objects", "7"], "min_objects from 0 to objects"),
])  # fmt: skip
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(EconError, match=message):
        make_dataset.main([str(tmp_path / "ds"), *TINY, *options])
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_exit_with_2(tmp_path, capsys):
    for wrong in ([], [str(tmp_path / "ds"), "--kind", "grey"], ["a", "b"]):
        with pytest.raises(SystemExit) as stop:
            make_dataset.main(wrong)
        assert stop.value.code == 2
    capsys.readouterr()


def test_damaged_datasets(out, tmp_path):
    with pytest.raises(EconError, match="a dataset folder, with a dataset.json"):
        StoredScenes(tmp_path)
    with pytest.raises(EconError, match="train or valid, got 'test'"):
        StoredScenes(out, "test")
    with pytest.raises(EconError, match="its part .*train: use .*ds"):
        open_split(out / "train", CONFIG, 16, 0)
    with pytest.raises(EconError, match="images of 32 pixels, the model's size, got 16"):
        open_split(out, CONFIG, 32, 0)
    with pytest.raises(IndexError):
        StoredScenes(out).images(torch.tensor([7]))

    mask = out / "train" / "mask.npy"
    raw = mask.read_bytes()
    mask.write_bytes(raw[:-100])
    with pytest.raises(
        EconError, match="mask.npy, cut off: 672 bytes .* 572 are there: make the dataset again"
    ):
        StoredScenes(out)
    mask.unlink()
    with pytest.raises(EconError, match="mask.npy, which does not exist: make the dataset again"):
        StoredScenes(out)
    np.save(mask, np.zeros((6, 3, 16, 2), np.uint8))
    with pytest.raises(EconError, match="7 scenes in .*mask.npy"):
        StoredScenes(out)

    about = json.loads((out / "dataset.json").read_text())
    for text, message in (
        ("{", "JSON in .*dataset.json, got a damaged file"),
        ("[" * 100_000, "JSON in .*dataset.json, got lists or objects nested too deep"),
        (json.dumps(about | {"train": True}), "train is not a whole number from 1"),
        (json.dumps(about | {"valid": 10**400}), "valid is not a whole number"),
        (json.dumps(about | {"config": about["config"] | {"size": 10**9}}), "size is not a whole"),
        (
            json.dumps(about | {"config": about["config"] | {"size": 20}}),
            "size is not a multiple of 8",
        ),
        (
            json.dumps(about | {"config": about["config"] | {"classes": [1]}}),
            "not a list of names",
        ),
        (json.dumps(about | {"config": []}), "no configuration"),
        ("[]", "readable dataset description"),
        (json.dumps(about | {"format": 2}), "a dataset of format 1, got .* of format 2"),
        (json.dumps(about | {"train": "many"}), "readable dataset description"),
    ):
        (out / "dataset.json").write_text(text)
        with pytest.raises(EconError, match=message):
            StoredScenes(out)


BAD_ARRAYS = [
    ("image", lambda a: a / np.float32(255), "uint8 in .*image.npy, got float32"),
    ("image", lambda a: a[:, :8], r"image of shape \(7, 16, 16, 3\) in .*, got \(7, 8, 16, 3\)"),
    ("image", lambda a: a[..., :1], r"image of shape .* got \(7, 16, 16, 1\)"),
    (
        "label",
        lambda a: a + 3,
        "labels from -1 to 2, one for each class in .*label.npy, got 3 to 5",
    ),
    ("label", lambda a: a - 3, "labels from -1 to 2"),
    ("label", lambda a: a.astype(np.int64), "int8 in .*label.npy, got int64"),
    ("label", lambda a: a[:, 0], "label of shape"),
    ("label", lambda a: a.repeat(3, 1), "label of shape"),  # more slots than any scene has
    (
        "position",
        lambda a: np.where(a > 5, np.float32("nan"), a),
        "finite numbers in .*position.npy",
    ),
    ("side", lambda a: a * np.float32("inf"), "finite numbers in .*side.npy, got NaN or infinity"),
    ("mask", lambda a: a[..., :1], "mask of shape"),
    ("region", lambda a: a[:, :2], "region of shape"),
    ("angle", lambda a: np.array(1.0, "f4"), "7 scenes in .*angle.npy"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD_ARRAYS)
def test_arrays_that_are_not_what_was_written(out, name, change, message):
    path = out / "train" / f"{name}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(EconError, match=message):
        StoredScenes(out)
    assert len(StoredScenes(out, "valid")) == 3


def test_regions_that_contradict_the_masks(out):
    regions, masks = (np.load(out / "train" / f"{name}.npy") for name in ("region", "mask"))
    beside = regions.copy()
    beside[:, 0] |= ~np.bitwise_or.reduce(masks, 1)  # where no object is
    assert (np.bitwise_and.reduce(masks[:, :2], 1)).any()  # one hides another
    for wrong in (beside, masks):
        np.save(out / "train" / "region.npy", wrong)
        with pytest.raises(EconError, match="parts that lie in their masks and not in another's"):
            StoredScenes(out).scenes(torch.arange(7))
        assert StoredScenes(out).images(torch.arange(7)).shape == (7, 3, 16, 16)


def test_arrays_of_another_byte_order_are_the_same(out):
    before = StoredScenes(out).scenes(torch.arange(7))
    for name in ("position", "side", "angle"):
        path = out / "train" / f"{name}.npy"
        np.save(path, np.load(path).astype(">f4"))
    assert_same(StoredScenes(out).scenes(torch.arange(7)), before)
