"""Background and objects of objects_room: rooms that are drawn here, from their geometry."""

import h5py
import numpy as np
import pytest
import torch

from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.readers.objects_room import background_parts
from helpers.data_files import encode, write_records

SIDE = 64


def room(corner, objects, seed=0, side=SIDE, slope=0.1):
    """Numbers of a room as a camera sees it: sky, wall, floor; the wall's edges meet in a corner.

    Args:
        corner: column where the halves of the wall meet; None shows one half.
        objects: number of objects, painted from the last to the first.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    turn = 2.0 if corner is None else corner / side
    tilt = slope * np.abs(x - turn)  # both walls come nearer away from the corner
    numbers = np.where(y < 0.25 - tilt, 0, np.where(y > 0.6 + tilt, 1, 2))
    if corner is not None:
        numbers[(numbers == 2) & (x >= turn)] = 3
    first = 3 if corner is None else 4
    for k in reversed(range(objects)):
        h, w = random.uniform(0.12, 0.3, 2)
        left = random.uniform(0, 1 - w) if k else random.uniform(0.1, 0.6)
        foot = random.uniform(0.75, 0.95)
        numbers[(y > foot - h) & (y <= foot) & (x >= left) & (x < left + w)] = first + k
    return numbers.astype(np.uint8)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("slope", [0, 0.15])
def test_three_and_four_parts_are_told_apart(side, slope):
    for seed in range(40):
        one = room(None, 1 + seed % 3, seed, side, slope)
        two = room(side * (3 + seed % 10) // 16, seed % 4, seed, side, slope)
        got = background_parts(np.stack([one, two, one[:, ::-1], two[:, ::-1]])).tolist()
        assert got == [3, 4, 3, 4], seed


def placed(rows, columns, corner=None):
    numbers = room(corner, 0, slope=0)
    numbers[slice(*rows), slice(*columns)] = 3 if corner is None else 4
    return numbers


@pytest.mark.parametrize(("rows", "columns"), [
    ((50, 60), (20, 30)),  # on the floor
    ((50, 60), (0, 10)),  # on the floor, at the left edge
    ((50, 60), (54, 64)),  # at the right edge
    ((30, 50), (0, 10)),  # in front of floor and wall, at an edge
    ((5, 50), (20, 30)),  # from the floor into the sky
    ((5, 50), (0, 10)),  # the same at an edge
    ((5, 64), (54, 64)),  # the same to the lower edge of the image
    ((20, 30), (20, 30)),  # hangs in the air
    ((50, 64), (0, 64)),  # a carpet
    ((0, 6), (0, 64)),  # a ceiling
    ((16, 39), (20, 30)),  # as high as the wall
])  # fmt: skip
def test_an_object_is_an_object_wherever_it_is(rows, columns):
    assert background_parts(placed(rows, columns)[None]).tolist() == [3]
    assert background_parts(placed(rows, columns, 32)[None]).tolist() == [4]


def test_an_object_with_another_beside_it():
    for mirrored in (1, -1):
        scene = placed((0, 64), (20, 30))
        scene[:, 30:40] = 4  # hides where the first one ends
        assert background_parts(scene[None, :, ::mirrored]).tolist() == [3]
        room_of_two = room(32, 0, slope=0.2)
        room_of_two[10:, 50:] = 4  # in front of the end of the other wall
        assert background_parts(room_of_two[None, :, ::mirrored]).tolist() == [4]


def test_an_empty_room_and_a_full_one():
    assert background_parts(np.stack([room(40, 0), room(None, 0)])).tolist() == [4, 4]
    hidden = room(None, 1)[None]  # number 3 is an object, unless there are as many as can be
    hidden[0, :2, :2] = 6
    assert background_parts(hidden).tolist() == background_parts(hidden, 9).tolist() == [3]
    assert background_parts(hidden, 7).tolist() == [4]


def scenes(n_objects):
    numbers = np.stack([room(corner, n, seed=n + i) for i, corner in enumerate((None, 30, None))
                        for n in (n_objects,)])  # fmt: skip
    objects = [numbers[0] >= 3, numbers[1] >= 4, numbers[2] >= 3]
    return numbers, np.stack(objects)


@pytest.mark.parametrize("visibility", [False, True])
def test_both_files_give_all_objects(tmp_path, visibility):
    numbers, objects = scenes(2)
    images = np.random.default_rng(0).integers(0, 256, (*numbers.shape, 3), np.uint8)
    with h5py.File(tmp_path / "objects_room_train-full.hdf5", "w") as file:
        file["image"], file["mask"] = images, numbers[..., None]
        if visibility:  # of the numbers that occur, as the library writes it
            there = (numbers.reshape(3, 1, -1) == np.arange(7)[:, None]).any(2)
            file["visibility"] = there.astype(np.float32)
    each = 255 * (numbers[:, None, ..., None] == np.arange(7)[:, None, None, None])
    write_records(tmp_path / "a.tfrecords", [
        encode({"image": image, "mask": mask})
        for image, mask in zip(images, each.astype(np.uint8), strict=True)
    ])  # fmt: skip
    for name in ("objects_room_train-full.hdf5", "a.tfrecords"):
        source = open_images(tmp_path / name, SIDE)
        assert "3 or 4 parts of background" in source.info.truth[0]
        region = source.scenes(torch.arange(3)).region
        np.testing.assert_array_equal(region.any(1).numpy(), objects)
        assert region.flatten(2).any(2).sum(1).tolist() == [2, 2, 2]
        small = open_images(tmp_path / name, 32).scenes(torch.arange(3)).region
        assert small.flatten(2).any(2).sum(1).tolist() == [2, 2, 2]


def test_classes_keep_to_their_objects(tmp_path):
    numbers, _ = scenes(2)
    shape = np.tile([9, 9, 9, 0, 1, 2, 0], (3, 1))
    with h5py.File(tmp_path / "objects_room_mine.hdf5", "w") as file:
        file["image"], file["mask"] = numbers, numbers
        file["shape"], file["visibility"] = shape, np.ones((3, 7))
    truth = open_images(tmp_path / "objects_room_mine.hdf5", SIDE).scenes(torch.arange(3))
    assert truth.label.tolist() == [[0, 1], [1, 2], [0, 1]]
