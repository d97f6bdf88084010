"""Checkpoints written while training goes on hold what was, and a failure is said."""

import threading

import pytest
import torch

from econ_pyro.training import async_checkpoint as module
from econ_pyro.training.async_checkpoint import MAX_PENDING, AsyncCheckpointer
from econ_pyro.training.checkpoint import load_checkpoint


def test_what_training_does_next_is_not_in_a_checkpoint(tmp_path, monkeypatch):
    begun = threading.Event()
    write = module.save_checkpoint

    def late(path, state):
        assert begun.wait(10)
        write(path, state)

    monkeypatch.setattr(module, "save_checkpoint", late)
    weight, numbers = torch.ones(3, requires_grad=True), torch.arange(2)
    saver = AsyncCheckpointer()
    saver.save(tmp_path / "a.pt", {"model": {"weight": weight}, "rng": [numbers], "step": 4})
    with torch.no_grad():
        weight.add_(1)
    numbers.zero_()
    begun.set()
    saver.wait()
    state = load_checkpoint(tmp_path / "a.pt")
    assert state["model"]["weight"].tolist() == [1, 1, 1]
    assert not state["model"]["weight"].requires_grad
    assert state["rng"][0].tolist() == [0, 1] and state["step"] == 4


def test_few_checkpoints_wait_and_are_written_in_turn(tmp_path, monkeypatch):
    written, may = [], threading.Semaphore(0)

    def write(path, state):
        assert may.acquire(timeout=10)
        written.append(state["step"])

    monkeypatch.setattr(module, "save_checkpoint", write)
    saver = AsyncCheckpointer()
    for step in range(MAX_PENDING):
        saver.save(tmp_path / "a.pt", {"step": step})
    assert written == []  # training went on
    may.release()
    saver.save(tmp_path / "a.pt", {"step": MAX_PENDING})
    assert written == [0]  # before the next was taken
    for _ in range(MAX_PENDING):
        may.release()
    saver.wait()
    assert written == list(range(MAX_PENDING + 1))


def test_a_full_disk_is_not_passed_over(tmp_path, monkeypatch):
    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", full)
    saver = AsyncCheckpointer()
    saver.save(tmp_path / "a.pt", {})
    with pytest.raises(OSError, match="No space left"):
        saver.wait()
    saver.wait()  # said once


def test_after_one_that_failed_none_is_written(tmp_path, monkeypatch):
    """A last.pt that knows of a best.pt which is not there would keep the worse one."""
    written, failing = [], [True]

    def write(path, state):
        if failing.pop():
            raise OSError(28, "No space left on device")
        written.append(path.name)

    monkeypatch.setattr(module, "save_checkpoint", write)
    saver = AsyncCheckpointer()
    failing[:] = [False, True]  # the first fails; then there would be room again
    saver.save(tmp_path / "best.pt", {})
    saver.save(tmp_path / "last.pt", {})
    with pytest.raises(OSError, match="No space left"):
        saver.wait()
    saver.wait()
    assert written == []
