"""Images and masks in NumPy and HDF5 files, against the scenes that they were written from."""

import builtins
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.readers.mask_slots import depth_order
from econ_pyro.data.splits import open_split
from econ_pyro.errors import EconError
from econ_pyro.evaluation import metrics
from econ_pyro.scene_config import SceneConfig
from helpers.data_files import blocks
from helpers.decompositions import BOXES, CLASSES, TRUE, explained

ALL = torch.arange(3)


def pixels(source, indices=ALL):
    return (source.images(indices) * 255).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture
def scenes():
    amodal, numbers, images = blocks(3, 4, 32, 32)
    return SimpleNamespace(amodal=amodal, numbers=numbers, images=images)


# ------------------------------------------------------------------ images


def test_layouts_and_types_of_images_are_told_apart(tmp_path, scenes):
    images = scenes.images
    # nearest to the same levels, with other lower bytes
    deep = (images.astype(int) * 257 + 100).clip(max=65535).astype(np.uint16)
    same = {
        "bytes": images,
        "channels first": images.transpose(0, 3, 1, 2),
        "floats": images.astype(np.float32) / 255,
        "doubles": images / 255,
        "integers": images.astype(np.int64),
        "16 bits": deep,
        "16 bits, big-endian": deep.astype(">u2"),
        "half floats": (images / 255).astype(np.float16),
        "floats, big-endian": (images / 255).astype(">f4"),
        "doubles, big-endian": (images / 255).astype(">f8"),
        "integers, big-endian": images.astype(">i8"),
        "signed 16 bits": images.astype(np.int16),
        "a rounding step outside": images / 255 * (1 + 1e-7) - 1e-8,
        "as resampling overshoots": (images / 255 - 0.5) * 1.001 + 0.5,
        "opaque": np.concatenate([images, np.full_like(images[..., :1], 255)], -1),
    }
    for name, array in same.items():
        np.save(tmp_path / "a.npy", array)
        got = pixels(open_images(tmp_path / "a.npy", 32))
        np.testing.assert_array_equal(got, images, err_msg=name)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["image"] = array
        np.savez(tmp_path / "a.npz", image=np.asfortranarray(array))
        for other in ("a.h5", "a.npz"):
            got = pixels(open_images(tmp_path / other, 32))
            np.testing.assert_array_equal(got, images, err_msg=f"{name} in {other}")
    for grey in (images[..., 0], images[..., :1], images[:, None, :, :, 0]):
        np.save(tmp_path / "a.npy", grey)
        got = pixels(open_images(tmp_path / "a.npy", 32))
        np.testing.assert_array_equal(got, images[..., :1].repeat(3, -1))
    clear = np.zeros((2, 8, 8, 4), np.uint8)
    np.save(tmp_path / "a.npy", clear)
    assert (pixels(open_images(tmp_path / "a.npy", 8), torch.arange(2)) == 255).all()
    np.save(tmp_path / "a.npy", np.eye(8, dtype=bool)[None])
    got = pixels(open_images(tmp_path / "a.npy", 8), torch.arange(1))
    np.testing.assert_array_equal(got[0, :, :, 1], 255 * np.eye(8))


def test_values_are_checked_when_they_are_read_if_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "econ_pyro.data.readers.array_values.MAX_CHECKED", 3 * 8 * 8 * 8
    )  # three images
    for wrong, at in ((np.nan, 3), (7.0, 5)):
        images = np.zeros((6, 8, 8))
        images[at, 2, 2] = wrong
        np.save(tmp_path / "a.npy", images)
        source = open_images(tmp_path / "a.npy", 8)
        assert source.images(torch.tensor([4, 2])).shape == (2, 3, 8, 8)
        with pytest.raises(EconError, match=f"image {at}"):
            source.images(torch.tensor([0, at]))
    with pytest.raises(EconError, match="7 in image 2"):
        np.save(tmp_path / "a.npy", images[3:])
        open_images(tmp_path / "a.npy", 8)


def test_small_images_are_told_by_being_square(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    for array in (grey, grey.transpose(0, 3, 1, 2)):
        np.save(tmp_path / "a.npy", array)
        got = pixels(open_images(tmp_path / "a.npy", 4), torch.arange(2))
        np.testing.assert_array_equal(got, grey)


def test_arrays_become_square_and_are_split(tmp_path):
    wide = np.zeros((40, 16, 32, 3), np.uint8)
    wide[..., 8:24, 0] = np.arange(40)[:, None, None]
    np.save(tmp_path / "a.npy", wide)
    split = open_split(tmp_path / "a.npy", SceneConfig(), 16, 0)
    reds = pixels(split.valid, torch.arange(2))[..., 0]
    assert (reds[0] == 19).all() and (reds[1] == 39).all()
    assert len(split.train) == 38 and split.train.scenes(ALL) is None
    with pytest.warns(UserWarning, match="took the first 10 images of .*a.npy: --limit"):
        few = open_split(tmp_path / "a.npy", SceneConfig(), 16, 0, limit=10)
    assert len(few.train) == 9
    np.save(tmp_path / "a.npy", wide[:1])
    with pytest.raises(EconError, match="at least 2 images.*got 1: .*a.npy"):
        open_split(tmp_path / "a.npy", SceneConfig(), 16, 0)


BAD_IMAGES = [
    (np.zeros((8, 8, 3), np.uint8), "one image .8, 8, 3.: add a first axis"),
    (np.zeros((2, 8, 8, 5), np.uint8), r"got \(2, 8, 8, 5\)"),
    (np.zeros((8, 8), np.uint8), r"got \(8, 8\)"),
    (np.zeros((0, 8, 8), np.uint8), "which holds nothing"),
    (np.zeros((2, 0, 8, 3), np.uint8), "which holds nothing"),
    (np.zeros((2, 8, 8), np.complex64), "numbers in .*, got values of type complex64"),
    (np.zeros((2, 8, 8), "U3"), "numbers in .*, got values of type <U3"),
    (np.full((300, 2, 2), 255.0), r"in \[0, 1\] in .*, got 255 to 255 in image 0: divide by 255"),
    (np.full((2, 8, 8), -0.5), "in image 0: add 1 and halve"),
    (np.full((2, 8, 8), 1.004), "got 1.004 to 1.004 in image 0: divide by 255"),
    (np.full((2, 8, 8), 60000.0), "got 60000 to 60000 in image 0: divide by 65535"),
    (np.full((2, 8, 8), 1e9), "in image 0: bring them to that range"),
    (np.full((2, 8, 8), 60000), "values in 0 to 255 in .* got 60000 .*: save 16 bits as uint16"),
    (np.full((2, 8, 8), -100, np.int8), "got -100 to -100 .*: add 128 and save them as uint8"),
    (np.full((2, 8, 8), 255, ">u2"), "16-bit images .*, got none above 255: if they are 8 bits"),
    (np.ones((2, 8, 8), int), "got 0 and 1 alone: save them as bool, or multiply by 255"),
    (np.zeros((2, 3, 32, 3), np.uint8), "whose channels may be first or last: cut or pad"),
    (np.zeros((2, 8, 8, 2), np.uint8), r"got \(2, 8, 8, 2\): keep the first of grey and alpha"),
    (np.zeros((2, 4, 8, 8, 3), np.uint8), "put frames one after another"),
    (np.zeros((2, 8, 8), [("a", "u1")]), "numbers in .*, got values of type"),
    (np.zeros((2, 8, 8), "M8[s]"), "numbers in .*, got values of type datetime64"),
    (np.full((2, 8, 8), 256), "values in 0 to 255 in .*, got 256 to 256 in image 0"),
    (np.full((2, 8, 8), [[[0.0]], [[np.nan]]]), "NaN in image 1: leave that image out"),
    (np.full((2, 8, 8), [[[0.0]], [[np.inf]]]), "got inf to inf in image 1"),
]


@pytest.mark.parametrize(("array", "message"), BAD_IMAGES)
def test_bad_images_are_explained(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(EconError, match=message):
        open_images(tmp_path / "a.npy", 8)


def test_files_that_are_not_what_they_seem(tmp_path, scenes):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(EconError, match="readable .npy file, got Python objects in .*a.npy"):
        open_images(path, 8)
    np.savez(tmp_path / "b.npz", image=np.array([{"a": 1}], object))
    with pytest.raises(EconError, match="Python objects in .*b.npz"):
        open_images(tmp_path / "b.npz", 8)
    np.save(path, scenes.images)
    whole = path.read_bytes()
    for cut in (200, 8):
        path.write_bytes(whole[:cut])
        with pytest.raises(EconError, match="readable .npy file, got .*a.npy"):
            open_images(path, 8)
    path.write_bytes(b"")
    with pytest.raises(EconError, match="a.npy, an empty file"):
        open_images(path, 8)
    path.write_text("neither fish nor fowl")
    with pytest.raises(EconError, match="expected a dataset folder, .*a.npy, which has none of"):
        open_images(path, 8)
    with pytest.raises(EconError, match="gone, which does not exist"):
        open_images(tmp_path / "gone", 8)
    np.savez(tmp_path / "b.npz", image=scenes.images)
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EconError, match="readable .npz archive, got .*b.npz"):
        open_images(tmp_path / "b.npz", 8)
    np.savez(tmp_path / "b.npz", pictures=scenes.images, other=scenes.images)
    with pytest.raises(EconError, match="called image in .*, got other, pictures: names that"):
        open_images(tmp_path / "b.npz", 8)
    with pytest.raises(EconError, match="at least 1 for --limit, got 0"):
        open_images(tmp_path / "b.npz", 8, limit=0)


# ------------------------------------------------------------------ ground truth


def as_set(truth, b):
    return {r.numpy().tobytes() for r in truth.region[b] if r.any()}


def test_masks_in_all_their_forms(tmp_path, scenes):
    numbers = scenes.numbers
    each = numbers[:, None] == np.arange(5)[:, None, None]
    forms = {
        "numbers": numbers,
        "numbers with a last axis": numbers[..., None].astype(np.int64),
        "one a mask": each[:, 1:],
        "one a mask, 0 and 255": 255 * each[:, 1:].astype(np.uint8),
        "with the background": each[..., None].astype(np.float32),
        "any numbers": numbers.astype(np.int32) * 1000,
    }
    for name, mask in forms.items():
        np.savez(tmp_path / "a.npz", images=scenes.images, masks=mask)
        source = open_images(tmp_path / "a.npz", 32)
        truth = source.scenes(ALL)
        for b in range(3):
            want = {r.tobytes() for r in each[b, 1:] if r.any()}
            assert as_set(truth, b) == want, name
        assert truth.mask is None and truth.label is None and source.classes == ()
        layers = truth.layers(6)
        torch.testing.assert_close(layers.sum(1), torch.ones(3, 1, 32, 32))
        np.testing.assert_array_equal(layers[:, -1, 0].numpy(), numbers == 0)
        assert source.scenes(torch.tensor([2, 0, 2])).region.shape[0] == 3
    with pytest.raises(EconError, match="layers, for"):
        truth.layers(1)


def test_whole_objects_front_to_back(tmp_path, scenes):
    np.savez(tmp_path / "a.npz", image=scenes.images, amodal=scenes.amodal)
    truth = open_images(tmp_path / "a.npz", 32).scenes(ALL)
    for b in range(3):
        seen = [e for e in range(4) if (scenes.numbers[b] == e + 1).any()]
        for slot, e in enumerate(seen):
            np.testing.assert_array_equal(truth.region[b, slot], scenes.numbers[b] == e + 1)
            np.testing.assert_array_equal(truth.mask[b, slot], scenes.amodal[b, e])


def test_depth_order_is_told_from_masks_in_any_order(tmp_path, scenes):
    shuffle = np.array([2, 0, 3, 1])
    numbers = np.where(
        scenes.numbers > 0, np.argsort(shuffle)[scenes.numbers.astype(int) - 1] + 1, 0
    )
    np.savez(
        tmp_path / "a.npz", image=scenes.images, mask=numbers, amodal=scenes.amodal[:, shuffle],
        label=np.tile(shuffle, (3, 1)), classes=np.array(["a", "b", "c", "d"]),
    )  # fmt: skip
    source = open_images(tmp_path / "a.npz", 32)
    truth = source.scenes(ALL)
    assert source.classes == ("a", "b", "c", "d")
    for b in range(3):
        drawn = np.zeros((32, 32), np.int64)
        for slot in reversed(range(truth.mask.shape[1])):  # a painter, back to front
            if truth.region[b, slot].any():
                e = int(truth.label[b, slot])
                np.testing.assert_array_equal(truth.mask[b, slot], scenes.amodal[b, e])
                drawn[truth.mask[b, slot].numpy()] = e + 1
        np.testing.assert_array_equal(drawn, scenes.numbers[b])


def test_depth_order_of_three_in_a_chain():
    amodal = np.zeros((3, 1, 8), bool)
    amodal[0, 0, 0:3], amodal[1, 0, 2:5], amodal[2, 0, 4:7] = True, True, True
    region = amodal.copy()
    region[0, 0, 2] = region[1, 0, 4] = False  # 2 over 1 over 0
    assert depth_order(region, amodal).tolist() == [2, 1, 0]


BAD_MASKS = [
    ({"mask": np.zeros((2, 32, 32), int)}, "3 rows of mask"),
    ({"mask": np.zeros((3, 16, 32), int)}, "H = 32, W = 32, in .*, got .3, 16, 32."),
    ({"mask": np.full((3, 32, 32), -1)}, "values that are not 0, 1, 2"),
    ({"mask": np.full((3, 32, 32), 0.5)}, "values that are not 0, 1, 2"),
    ({"mask": np.ones((3, 2, 32, 32), bool)}, "several objects in image 0: .* array amodal"),
    ({"mask": np.zeros((3, 32, 32), "U1")}, "values of type <U1"),
    ({"amodal": np.zeros((3, 32, 32), bool)}, r"amodal masks \(n, N, H, W\).*got \(3, 32, 32\)"),
    (
        {"mask": np.ones((3, 32, 32), int), "amodal": np.zeros((3, 1, 32, 32), bool)},
        "visible parts outside them in image 0",
    ),
    ({"mask": np.full((3, 32, 32), 2), "label": np.zeros((3, 1))}, "1 columns for object 2"),
    ({"mask": np.ones((3, 32, 32), int), "label": np.full((3, 1), 0.5)}, "not integers"),
    (
        {"mask": np.ones((3, 32, 32), int), "label": np.ones((3, 1), int), "classes": ["a"]},
        "got 1 for 1 classes",
    ),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_MASKS)
def test_bad_masks_are_explained(tmp_path, scenes, arrays, message):
    np.savez(tmp_path / "a.npz", image=scenes.images, **arrays)
    with pytest.raises(EconError, match=message):
        open_images(tmp_path / "a.npz", 32).scenes(ALL)


# ------------------------------------------------------------------ HDF5


def write_library(path, scenes, columns=6):
    """A file as object-centric-library has it: the background is object 0 of every column."""
    n = len(scenes.images)
    shape = np.zeros((n, columns, 1), np.uint8)
    shape[:, 1:5, 0] = [[2, 0, 1, 2]] * n
    visibility = np.zeros((n, columns, 1), np.float32)
    for b in range(n):
        visibility[b, np.unique(scenes.numbers[b])] = 1
    with h5py.File(path, "w") as file:
        file["image"] = scenes.images
        file["mask"] = scenes.numbers[..., None]
        file["visibility"], file["shape"] = visibility, shape
        file["num_actual_objects"] = visibility[:, 1:].sum(1)
        file["x"] = np.zeros((n, columns, 1), np.float32)
    return path


def test_hdf5_of_object_centric_library(tmp_path, scenes):
    path = write_library(tmp_path / "multidsprites-full.hdf5", scenes)
    source = open_images(path, 32)
    assert source.info.kind == "HDF5" and source.classes == ("class-0", "class-1", "class-2")
    order = torch.tensor([2, 0, 2])  # h5py itself wants numbers ascending and each once
    np.testing.assert_array_equal(pixels(source, order), scenes.images[order])
    truth = source.scenes(ALL)
    for b in range(3):
        seen = [e for e in range(1, 5) if (scenes.numbers[b] == e).any()]
        for slot, e in enumerate(seen):
            np.testing.assert_array_equal(truth.region[b, slot], scenes.numbers[b] == e)
            assert truth.label[b, slot] == [2, 0, 1, 2][e - 1]
    room = write_library(tmp_path / "objects_room_train-full.hdf5", scenes)
    assert "4 parts" in open_images(room, 32).info.truth[0]


def test_bad_hdf5(tmp_path, scenes, monkeypatch):
    path = write_library(tmp_path / "a.h5", scenes)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(EconError, match="readable HDF5 file, got .*a.h5"):
        open_images(path, 32)
    with h5py.File(path, "w") as file:
        file["group/image"] = scenes.images
    with pytest.raises(EconError, match="called image in .*a.h5, got no arrays"):
        open_images(path, 32)

    def without(name, *args, real=builtins.__import__):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EconError, match=r"package h5py.*pip install 'econ-pyro\[hdf5\]'"):
        open_images(path, 32)


# ------------------------------------------------------------------ metrics


def test_only_what_the_truth_allows_is_measured():
    d = explained([*BOXES, None], [0, 1, 2, 3])
    full = metrics.evaluate_scenes(d, TRUE, CLASSES)
    for mask, label in ((None, None), (TRUE.mask, None), (None, TRUE.label)):
        known = SimpleNamespace(region=TRUE.region, mask=mask, label=label)
        part = metrics.evaluate_scenes(d, known, () if label is None else CLASSES)
        missing = set(full.scores) - set(part.scores)
        assert missing == (set() if mask is not None else {"amodal_iou", "completed_iou", "ooa"})
        for name, score in part.scores.items():
            torch.testing.assert_close(score, full.scores[name], rtol=0, atol=0, equal_nan=True)
        assert (part.confusion is None) == (label is None)
        assert ("class_accuracy" in part.summary()) == (label is not None)
        assert part.expert_names == (
            [f"expert-{k}" for k in range(4)] if label is None else full.expert_names
        )
