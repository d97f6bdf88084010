"""Kills at random moments; :mod:`helpers.kill_chains` has a command that makes more of them."""

import os
import shutil
import signal
import time

from econ_pyro.training import checkpoint, metrics_file
from helpers.kill_chains import chains, differences, finish, start
from helpers.scripts import TINY_ARGS, script


def test_killed_runs_end_as_an_unbroken_one(tmp_path):
    assert chains(1, 2, tmp_path)[0] == 1
    # and it would be noticed if they did not
    whole, other = tmp_path / "whole", tmp_path / "other"
    shutil.copytree(whole, other)
    assert differences(other, whole) == []
    state = checkpoint.load_checkpoint(other / checkpoint.LAST)
    state["callbacks"]["load_balancing"]["bias"][0] += 1e-6
    checkpoint.save_checkpoint(other / checkpoint.LAST, state)
    (other / ".last.1.tmp.pt").touch()
    (tmp_path / ".other.lock").touch()
    metrics = other / checkpoint.METRICS
    found = metrics_file.read_rows(metrics)
    metrics.write_text(
        metrics_file.to_text([*found[:-1], {**found[-1], "step": found[-1]["step"] + 1}])
    )
    found = differences(other, whole)
    for name in ("last.pt", ".last.1.tmp.pt", ".other.lock", checkpoint.METRICS):
        assert any(name in line for line in found), name


def test_killed_training_leaves_a_loadable_run(tmp_path):
    """SIGKILL at whatever moment it comes: checkpoints are written at every step here."""
    run = tmp_path / "run"
    args = ["quick", *TINY_ARGS, "--run", str(run), "--steps", "100000"]
    args += ["--train.validate-every", "1", "--train.valid-scenes", "2"]
    child = start(args, tmp_path / "log")
    for _ in range(1200):
        if len(checkpoint.read_metrics(run / checkpoint.METRICS)) >= 3:
            break
        assert child.exitcode is None, "training ended by itself"
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    assert finish(child) == -signal.SIGKILL
    for name in (checkpoint.LAST, checkpoint.BEST):
        assert checkpoint.load_checkpoint(run / name)["step"] >= 1
    step = checkpoint.load_checkpoint(run / checkpoint.LAST)["step"]
    script("svi_train", "quick", "--steps", step + 1, "--run", run, "--resume", "--device", "cpu")
    assert checkpoint.read_metrics(run / checkpoint.METRICS)[-1]["step"] == step + 1
