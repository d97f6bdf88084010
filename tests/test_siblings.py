"""Faults that testers found beside those that were known, one test each."""

import io
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.accel import cpu_cores
from econ_pyro.data.images import decode
from econ_pyro.data.readers import numpy_files
from econ_pyro.data.readers.array_source import ArraySource
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.files import locks, outputs
from econ_pyro.files.npy import read_header
from econ_pyro.io import scene_file
from econ_pyro.training import checkpoint
from helpers.trainers import make_trainer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_decomposes_on_cores_of_its_own(tiny):
    econ, x = Econ(tiny), torch.rand(4, 3, 16, 16)
    cpu_cores.use_cores(2)
    wanted = econ.decompose(x, batch=2).k
    pid = os.fork()
    if not pid:
        found = econ.decompose(x, batch=2).k
        os._exit(0 if torch.equal(found, wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("cores", [0, -1, 2.5, "2", True])
def test_cores_are_a_number(cores):
    with pytest.raises(EconError, match="cores of at least 1"):
        cpu_cores.use_cores(cores)


def test_a_file_that_has_the_name_of_a_lock_is_left_alone(tmp_path):
    (tmp_path / ".run.lock").write_text("precious")
    with pytest.raises(EconError, match="name is a lock's"):
        with locks.hold_lock(tmp_path / "run"):
            pass
    assert (tmp_path / ".run.lock").read_text() == "precious"


def test_edited_copies_of_a_result_are_kept_and_so_are_empty_folders(tmp_path):
    layout = outputs.OutputLayout("*/scene.json", r"scene\.json|layer-\d+\.png")

    def write(names):
        with outputs.merged_folder(tmp_path / "out", True, layout) as out:
            for name in names:
                (out / name).mkdir()
                (out / name / "scene.json").write_text("new")

    write(["a", "b"])
    for kept in ("a-edited/scene.json", "b/scene.json", "a/mine/note", "a/layer-9.png"):
        (tmp_path / "out" / kept).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / kept).write_text("edited")
    (tmp_path / "out" / "a" / "empty").mkdir()
    write(["a"])
    left = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/*/*"))
    assert left == ["a-edited/scene.json", "a/empty", "a/mine", "a/scene.json", "b/scene.json"]
    texts = {p: (tmp_path / "out" / p / "scene.json").read_text() for p in ("a", "b", "a-edited")}
    assert texts == {"a": "new", "b": "edited", "a-edited": "edited"}


def test_a_picture_of_endless_scans_is_refused(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    out = io.BytesIO()
    picture.save(out, "JPEG", progressive=True)
    data = out.getvalue()
    assert 1 < data.count(b"\xff\xda") < 20
    (tmp_path / "a.jpg").write_bytes(data)
    assert decode(tmp_path / "a.jpg").shape == (16, 16, 3)
    scan = data.rindex(b"\xff\xda")
    (tmp_path / "b.jpg").write_bytes(data[:scan] + data[scan:-2] * 200 + data[-2:])
    with pytest.raises(EconError, match=r"at most 100 scans, got .*b\.jpg"):
        decode(tmp_path / "b.jpg")


def masked(path, **arrays):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.savez(path, image=images, **arrays)
    return ArraySource(numpy_files.open_npz(path), 16)


def stack():
    planes = np.zeros((3, 2, 16, 16), np.uint8)
    planes[:, 0, :4], planes[:, 1, 8:12] = 1, 1
    return planes


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m * np.array([1, 2], np.uint8)[:, None, None],
        lambda m: m * 2,
        lambda m: -m.astype(np.int8),
        lambda m: np.where(m > 0, np.nan, 0.0),
        lambda m: m * 255.0,
    ],
    ids=["numbers", "2", "-1", "NaN", "floats to 255"],
)
def test_masks_one_an_object_are_on_or_off(tmp_path, change):
    with pytest.raises(EconError, match="where 1 or 255 marks the object"):
        masked(tmp_path / "a.npz", mask=change(stack()))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, "255", "soft"])
def test_masks_of_any_type_hold_their_objects(tmp_path, kind):
    planes = stack()
    if kind == "255":
        planes = planes * 255
    elif kind == "soft":
        planes = planes * 255
        planes[:, 0, 4], planes[:, 1, 12] = 60, 200
    else:
        planes = planes.astype(kind)
    region = masked(tmp_path / "a.npz", mask=planes).scenes(torch.arange(3)).region
    pixels = region.flatten(2).sum(-1).tolist()
    assert pixels == [[64, 80 if kind == "soft" else 64]] * 3


@pytest.mark.parametrize(
    "visibility",
    [np.ones(3), np.full((3, 2), np.nan), np.full((3, 2), "yes")],
    ids=["one axis", "NaN", "text"],
)
def test_visibility_is_checked_without_labels_too(tmp_path, visibility):
    with pytest.raises(EconError, match="visibility"):
        masked(tmp_path / "a.npz", mask=stack(), visibility=visibility)


def test_a_shape_of_truth_values_is_none(tmp_path):
    out = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (True, 4, 4)}
    np.lib.format.write_array_header_1_0(out, header)
    out.write(bytes(16))
    out.seek(0)
    with pytest.raises(EconError, match="shape"):
        read_header(out, len(out.getvalue()), "an array", tmp_path / "a.npy")


def test_a_scene_is_of_one_image_and_of_numbers(tiny):
    econ = Econ(tiny)
    d = econ.decompose(torch.rand(2, 3, 16, 16))
    with pytest.raises(EconError, match="one image, got one of 2: take d"):
        scene_file.of_decomposition(d)
    scene = scene_file.of_decomposition(d[0])
    nan = float("nan")
    for change in ({"z": (nan,) * 2}, {"dx": nan}, {"dy": float("inf")}, {"expert": True}):
        layers = (replace(scene.layers[0], **change), *scene.layers[1:])
        with pytest.raises(EconError, match="numbers from|whole number"):
            econ.render(replace(scene, layers=layers))


@pytest.mark.parametrize("wanted", [[1.5], [True], [np.True_], 1, None, "expert-0"])
def test_experts_are_found_by_index_or_name_alone(tiny, wanted):
    with pytest.raises(EconError):
        Econ(tiny).find_experts(wanted)


def test_seeds_that_no_generator_takes_are_refused(tiny):
    assert replace(tiny, seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(EconError, match="seed"):
        replace(tiny, seed=2**32)


@pytest.mark.parametrize(
    ("shape", "dtype", "top", "advice"),
    [
        ((5, 16, 16), np.uint16, 1, "save them as bool, or multiply by 255"),
        ((5, 16, 16), np.uint16, 200, "save them as uint8"),
    ],
)
def test_advice_on_arrays_leads_to_pictures(tmp_path, shape, dtype, top, advice):
    values = np.random.default_rng(0).integers(0, top, shape, dtype, endpoint=True)
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(EconError, match=advice):
        ArraySource(numpy_files.open_npy(tmp_path / "a.npy"), 16)


def test_weights_that_a_type_cannot_hold_are_not_written(tiny, tmp_path):
    econ = Econ(tiny)
    with torch.no_grad():
        next(econ.model.parameters()).fill_(1e6)
    with pytest.raises(EconError, match="torch.float16 can hold.*use bfloat16 or float32"):
        econ.save_pretrained(tmp_path / "weights", dtype="float16")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s["optim"]["param_groups"][0].update(eps=None),
        lambda s: s["optim"]["param_groups"][0].update(weight_decay=10**25),
        lambda s: s["optim"]["param_groups"][0].update(maximize=float("nan")),
        lambda s: s["callbacks"]["schedule"].update(factor=float("nan")),
        lambda s: s["callbacks"]["schedule"].update(cooldown=None),
        lambda s: s.update(sums=[1]),
        lambda s: s.update(sums={}),
        lambda s: s.update(steps=True),
    ],
)
def test_a_checkpoint_of_odd_values_is_not_gone_on_from(tiny, tmp_path, spoil):
    make_trainer(tiny, tmp_path, 2).fit()
    make_trainer(tiny, tmp_path, 4).resume()
    state = checkpoint.load_checkpoint(tmp_path / checkpoint.LAST)
    spoil(state)
    checkpoint.save_checkpoint(tmp_path / checkpoint.LAST, state)
    with pytest.raises(EconError, match="another kind of"):
        make_trainer(tiny, tmp_path, 4).resume()
