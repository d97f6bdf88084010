"""Kills at random moments; :mod:`helpers.kill_chains` has a command that makes more of them."""

import shutil

from econ_pyro.training import checkpoint, metrics_file
from helpers.kill_chains import chains, differences


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
