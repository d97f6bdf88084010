"""Training in two processes against one, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_scripts import TINY

from econ_pyro import checkpoint
from econ_pyro.errors import EconError
from econ_pyro.world import World, join

ROOT = Path(__file__).resolve().parents[1]


def train(processes, run, *args):
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "--",
    ]
    command = [sys.executable, *(launcher if processes > 1 else []), "scripts/svi_train.py",
               "quick", *TINY, "--train.restart-every", "2", "--train.restart-below", "0.9",
               "--objective.balance", "1", "--train.frozen", "1", "--run", str(run),
               *args]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_learn_what_one_learns_and_resume_as_one(tmp_path):
    train(1, tmp_path / "one", "--steps", "8")
    done = train(2, tmp_path / "two", "--steps", "4")
    assert done.stdout.count("training ended") == 1
    train(1, tmp_path / "two", "--resume", "--steps", "6")
    train(2, tmp_path / "two", "--resume", "--steps", "8")
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [2, 4, 6, 8]
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "valid_loss", "x", "z", "r", "usage"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), (name, a["step"])
    a, b = (checkpoint.load_checkpoint(tmp_path / n / checkpoint.LAST) for n in ("one", "two"))
    for name, weight in a["guide"].items():
        torch.testing.assert_close(weight, b["guide"][name], rtol=1e-3, atol=1e-4)
        if name.split(".")[1] == "0":  # frozen
            assert torch.equal(weight, b["guide"][name])


def test_one_process_is_a_world_of_its_own():
    cpu = torch.device("cpu")
    with join(cpu, 5) as (world, device):
        assert world == World() and world.first and device == cpu
        assert torch.equal(world.share(torch.arange(5)), torch.arange(5))
        assert world.any(True, cpu) and not world.any(False, cpu)
    assert torch.equal(World(1, 2).share(torch.arange(6)), torch.tensor([1, 3, 5]))


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(EconError, match="4 processes share evenly, got 5: set --train.batch 8"):
        with join(torch.device("cpu"), 5):
            pass
