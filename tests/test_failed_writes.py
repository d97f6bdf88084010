"""A full disk: whatever library writes, the old file stays, and one line says it.

A limit on the size of files stands for the full disk; the system refuses the same writes.
"""

import errno
import gc
import resource
import stat
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from econ_pyro import cli
from econ_pyro.data.readers.disk_array import DiskArray
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.files import outputs, storage
from econ_pyro.training import checkpoint
from helpers.trainers import equal, make_trainer, without_clock

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
WRITERS = {
    "checkpoint.pt": lambda path: torch.save({"weights": torch.randn(5000)}, path),
    "weights.safetensors": lambda path: save_file({"a": torch.randn(5000)}, path),
    "array.npy": lambda path: np.save(path, np.random.rand(5000)),
    "arrays.npz": lambda path: np.savez_compressed(path, a=np.random.rand(5000)),
    "picture.png": lambda path: RGB.save(path, format="PNG"),
    "film.gif": lambda path: RGB.quantize().save(path, format="GIF", save_all=True),
    "curves.png": lambda path: Figure().savefig(path),
    "text.json": lambda path: path.write_text("x" * 20000),
}


@contextmanager
def room(size):
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1500])
@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, name, size):
    path = tmp_path / name
    path.write_text("old")
    with room(size), pytest.raises(OSError, match=name) as error:
        storage.write_atomically(path, WRITERS[name])
    assert error.value.errno in storage.DISK_FULL_ERRORS and error.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == [name] and path.read_text() == "old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_may_fail_at_any_call(tmp_path, monkeypatch, call):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(*((storage.os, call) if call == "fsync" else (type(path), call)), fail)
    with pytest.raises(OSError, match=r"No space.*a\.json"):
        storage.write_json(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "old"


def test_a_mistake_of_ours_stays_one(tmp_path):
    for mistake in (TypeError("no JSON"), RuntimeError("shapes differ"), KeyError("k")):

        def write(path, mistake=mistake):
            raise mistake

        with pytest.raises(type(mistake)):
            storage.write_atomically(tmp_path / "a", write)
    assert storage.to_os_error(EconError("this", "that")) is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left", "/a/b"),
            "free space to write /a/b, got No space left",
        ),
        (OSError(errno.EDQUOT, "Quota exceeded"), "free space to write, got Quota exceeded"),
        (OSError(errno.EROFS, "Read-only", "/a"), "usable path, got /a (Read-only)"),
        (PermissionError(errno.EACCES, "denied", "/a"), "permission to use /a, got denied"),
        (OSError(errno.EIO, "Input/output error", b"/a"), "path, got /a (Input/output error)"),
        (OSError(errno.EIO, "Input/output error", 5), "be used, got Input/output error"),
    ],
)
def test_entry_points_say_it_in_one_line(capsys, error, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said


def test_a_reader_of_pipes_that_goes_is_no_error(capsys):
    def main():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 141 and capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [500, 3000])  # of half a row; of half a checkpoint
def test_a_disk_that_fills_up_costs_no_more_than_what_came_after(tiny, tmp_path, size):
    whole = make_trainer(tiny, tmp_path / "whole", 8)
    whole.fit()
    trainer = make_trainer(tiny, tmp_path / "run", 8)

    def fill(step, row):
        if step == 3:
            trainer._files.wait()
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    with room(resource.RLIM_INFINITY), pytest.raises(OSError) as error:
        trainer.fit(fill)
    assert error.value.errno in storage.DISK_FULL_ERRORS
    run = tmp_path / "run"
    assert not list(run.rglob(".*"))
    assert (run / checkpoint.METRICS).read_text().endswith("\n")
    for name in (checkpoint.LAST, checkpoint.BEST):
        assert checkpoint.load_checkpoint(run / name)["step"] == 2
    resumed = make_trainer(tiny, run, 8)
    resumed.resume()
    assert resumed.step == 2
    resumed.fit()
    assert equal(without_clock(resumed.state()), without_clock(whole.state()))
    rows = [checkpoint.read_metrics(tmp_path / r / checkpoint.METRICS) for r in ("run", "whole")]
    assert equal(*([without_clock(row) for row in of] for of in rows))


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("sys.unraisablehook", said.append)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool, named = DiskArray(), ""
    with room(20000):
        try:
            for _ in range(10):
                spool.append(np.ones((32, 32, 3), np.uint8))
            spool.array()
        except OSError as error:
            named = error.filename
        del spool  # which has rows left to write
        gc.collect()
    assert named == str(tmp_path)
    assert said == []  # no traceback at the end


def test_outputs_are_checked_before_anything_is_computed(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(EconError, match="the folder .*folder"):
        storage.check_writable(tmp_path / "folder")
    with room(0), pytest.raises(OSError, match="large.*a/b/sheet"):
        storage.check_writable(tmp_path / "a" / "b" / "sheet.png")
    with room(0), pytest.raises(OSError, match="large.*'.*/out'"):
        outputs.check_output(tmp_path / "out")
    storage.check_writable(tmp_path / "a" / "b" / "sheet.png")
    outputs.check_output(tmp_path / "c" / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


def test_what_is_written_may_be_read_by_those_who_may_read_other_files(tmp_path, tiny):
    Econ(tiny).save_pretrained(tmp_path / "weights")
    (tmp_path / "other").touch()
    wanted = stat.S_IMODE((tmp_path / "other").stat().st_mode)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("weights/*")}
    assert set(modes.values()) == {wanted} and "model.safetensors" in modes
