"""Ctrl-C and SIGTERM: training that is stopped goes on as if it had not been."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from econ_pyro import cli, stopping
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import CosineSchedule, PlateauSchedule, RecipeConfig
from econ_pyro.files import outputs
from econ_pyro.scripts import svi_train
from econ_pyro.training import checkpoint
from econ_pyro.training.learner import Learner
from econ_pyro.training.trainer import STOPPED, Trainer
from helpers.kill_chains import OPTIONS, differences, finish, start
from helpers.scripts import TINY_ARGS, script
from helpers.trainers import TINY, changed, equal, make_trainer, without_clock


def rows(run):
    return [without_clock(r) for r in checkpoint.read_metrics(run / checkpoint.METRICS)]


def stop_at(*steps):
    """For ``fit``: a report that counts, and a stop after those steps."""
    seen = []
    return (lambda step, row: seen.append(step)), (lambda: len(seen) + 1 in steps)


def rich(tiny):
    """Everything that a step between two validations may leave behind."""
    recipe = RecipeConfig(
        load_balancing=1.0, whitening=True, occlusion=0.5, restart_below=1.0, restart_every=3
    )
    return changed(
        tiny,
        recipe=recipe,
        objective__gamma_end=2.0,
        model__competition__temperature_end=1.0,
        train__validate_every=4,
        train__valid_scenes=8,
    )


@pytest.fixture(
    scope="module",
    params=[PlateauSchedule(), CosineSchedule()],
    ids=lambda schedule: schedule.kind,
)
def unbroken(request, tmp_path_factory):
    """A run of nine steps, validated after four, eight and nine."""
    config = rich(TINY)
    train = dataclasses.replace(config.train, schedule=request.param, steps=9)
    config = dataclasses.replace(config, train=train)
    folder = tmp_path_factory.mktemp(request.param.kind)
    trainer = make_trainer(config, folder / "whole")
    trainer.fit()
    return config, trainer, folder


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(unbroken, step):
    config, whole, tmp_path = unbroken
    tmp_path = tmp_path / str(step)
    tmp_path.mkdir()
    (tmp_path / "whole").symlink_to(whole.run)
    assert make_trainer(config, tmp_path / "run").fit(*stop_at(step)) == STOPPED
    assert checkpoint.load_checkpoint(tmp_path / "run" / checkpoint.LAST)["step"] == step
    torch.randn(5)
    again = make_trainer(config, tmp_path / "run")
    again.resume()
    assert again.step == step
    if step == 1:  # once more before the first validation
        assert again.fit(*stop_at(1)) == STOPPED
        again = make_trainer(config, tmp_path / "run")
        again.resume()
    again.fit()
    assert equal(without_clock(whole.state()), without_clock(again.state()))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    best = [checkpoint.load_checkpoint(tmp_path / r / checkpoint.BEST) for r in ("run", "whole")]
    assert equal(*map(without_clock, best))


def test_a_run_can_be_resumed_from_its_beginning(unbroken):
    config, whole, tmp_path = unbroken

    def fail(step, row):
        raise ZeroDivisionError

    run = tmp_path / "from-0"
    with pytest.raises(ZeroDivisionError):
        make_trainer(config, run).fit(fail)
    torch.randn(5)
    again = make_trainer(config, run)
    again.resume()
    assert again.step == 0 and again.rows == []
    again.fit()
    assert equal(without_clock(whole.state()), without_clock(again.state()))
    assert rows(run) == rows(whole.run)


def test_what_is_stopped_and_needs_no_more_steps_is_validated(tiny, tmp_path):
    config = rich(tiny)
    whole = make_trainer(config, tmp_path / "whole", 6)
    whole.fit()
    make_trainer(config, tmp_path / "run", 10).fit(*stop_at(6))
    again = make_trainer(config, tmp_path / "run", 6)
    again.resume()
    assert "6 steps" in again.fit()
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert equal(without_clock(whole.state()), without_clock(again.state()))
    again.fit()
    assert len(again.rows) == 2


def test_a_checkpoint_of_an_earlier_version_still_resumes(tiny, tmp_path):
    make_trainer(tiny, tmp_path / "run", 2).fit()
    path = tmp_path / "run" / checkpoint.LAST
    state = checkpoint.load_checkpoint(path)
    del state["sums"], state["steps"]
    checkpoint.save_checkpoint(path, state)
    again = make_trainer(tiny, tmp_path / "run", 4)
    again.resume()
    again.fit()
    assert [row["step"] for row in again.rows] == [2, 4]


def test_each_process_goes_on_with_its_own_terms(tiny, tmp_path):
    trainer, every = make_trainer(tiny, tmp_path / "run"), torch.rand(2, 5, 3)
    trainer.group = ProcessGroup(1, 2)
    assert torch.equal(torch.stack(trainer._own_sums(every)), every[1])
    trainer.group = ProcessGroup()  # what was of two is of one: the mean over all scenes
    torch.testing.assert_close(torch.stack(trainer._own_sums(every)), (every[0] + every[1]) / 2)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_the_first_signal_asks_and_the_second_stops(number):
    kept = signal.signal(number, signal.default_int_handler)  # ignored, say, under nohup
    try:
        with pytest.raises(stopping.Stopped) as stop, stopping.defer_signals() as request:
            assert not request()
            os.kill(os.getpid(), number)
            assert request() and request.signum == number
            os.kill(os.getpid(), number)
        assert stop.value.status == 128 + number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, kept)


@pytest.mark.parametrize("variable", ["WORLD_SIZE", stopping.PARENT])
def test_the_terminal_and_a_parent_are_one(monkeypatch, variable):
    monkeypatch.setenv(variable, str(os.getppid()))
    with stopping.defer_signals() as request:
        for signum in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), signum)
        assert request() and request.signum == signal.SIGINT


def test_a_parent_of_a_parent_is_nobody(monkeypatch):
    monkeypatch.setenv(stopping.PARENT, "1")
    with pytest.raises(stopping.Stopped), stopping.defer_signals():
        for signum in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), signum)


CHILD = """
import pathlib, sys, time
from econ_pyro import stopping
with stopping.defer_signals() as request:
    pathlib.Path(sys.argv[1], "ready").touch()
    for _ in range(1000):
        time.sleep(0.01)
        if request():  # a step is over: what a parent repeats comes meanwhile
            time.sleep(0.2)
            pathlib.Path(sys.argv[1], "saved").touch()
            raise SystemExit(128 + request.signum)
"""
PARENT = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from econ_pyro import cli
from econ_pyro.training.child_runs import ChildProcesses
folder = pathlib.Path(sys.argv[1])
children = ChildProcesses(1)
task = lambda: children.call([str(folder / "child.py"), str(folder)], folder / "run")
cli.run(lambda: children.run_all({"run": task}, 1))
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no groups of processes")
def test_what_the_terminal_sends_to_parent_and_child_lets_the_child_save(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    try:
        while not (tmp_path / "ready").exists():
            assert parent.poll() is None
            time.sleep(0.01)
        os.killpg(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert (tmp_path / "saved").exists()
    assert parent.returncode == 130 and said.startswith(b"stopped: the same command goes on")


def test_sigterm_while_a_trained_run_is_reported_gives_its_own_status(tmp_path, monkeypatch):
    def report(*_):
        raise stopping.Stopped(signal.SIGTERM)

    monkeypatch.setattr(svi_train, "_report", report)
    with pytest.raises(stopping.Stopped, match="after the last step") as stop:
        script("svi_train", "quick", *TINY_ARGS, "--steps", 1, "--run", tmp_path / "run")
    assert stop.value.status == 128 + signal.SIGTERM


def test_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.defer_signals() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not request()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_closes_what_is_open(tmp_path, capsys):
    def main():
        with outputs.atomic_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 143 and capsys.readouterr().err == "stopped\n"
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_training_says_how_to_go_on(tmp_path):
    run, log, whole = tmp_path / "run", tmp_path / "log", tmp_path / "whole"
    options = [*OPTIONS, "--steps", "7"]
    stopped = start([*options, "--run", str(run)], log, interrupt=(0, 4, signal.SIGINT))
    assert finish(stopped) == 130
    said = log.read_text().splitlines()[-1]
    assert said.startswith("stopped at step 5") and f"--run {run} --resume" in said
    state = checkpoint.load_checkpoint(run / checkpoint.LAST)
    assert state["step"] == 5 and state["sums"].shape == (1, 2, 3)
    assert finish(start(["quick", "--run", str(run), "--resume", "--device", "cpu"], log)) == 0
    assert finish(start([*options, "--run", str(whole)], log)) == 0
    assert differences(run, whole) == []


def test_a_run_has_a_checkpoint_from_when_its_folder_is_there(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "fit", killed)
        script("svi_train", "quick", *TINY_ARGS, "--steps", 2, "--run", tmp_path / "run")
    assert checkpoint.load_checkpoint(tmp_path / "run" / checkpoint.LAST)["step"] == 0
    script("svi_train", "quick", "--run", tmp_path / "run", "--resume")
    assert [row["step"] for row in rows(tmp_path / "run")] == [2]


def test_given_experts_stay_also_after_a_stop(tmp_path, monkeypatch):
    script("svi_train", "quick", *TINY_ARGS, "--steps", 1, "--run", tmp_path / "other")
    expert = tmp_path / "other" / "experts" / "expert_1.safetensors"
    options = ["quick", *TINY_ARGS, "--steps", 5, "--init-experts", expert, "--freeze"]
    script("svi_train", *options, "--run", tmp_path / "whole")
    step = Learner.step

    def send(learner, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(learner, *args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Learner, "step", send)
        cli.run(lambda: script("svi_train", *options, "--run", tmp_path / "run"))
    assert stop.value.code == 143
    script("svi_train", "quick", "--run", tmp_path / "run", "--resume")
    assert differences(tmp_path / "run", tmp_path / "whole") == []
