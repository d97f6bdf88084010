"""Training in two processes against one, on the CPU."""

import json
import signal
import socket

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup, join
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.training import checkpoint
from econ_pyro.training.batches import Batches
from econ_pyro.training.callbacks import LatentWhitening
from econ_pyro.training.learner import Learner
from helpers.kill_chains import OPTIONS, finish, start
from helpers.paths import ROOT
from helpers.scripts import TINY_ARGS
from helpers.trainers import equal, without_clock

# durations in training steps: shares of a run would change where it is made longer
RECIPE = """--recipe.restart-every 2 --recipe.restart-below 0.9 --recipe.load-balancing 1
    --train.frozen 1 --objective.gamma-until 1200 --model.competition.temperature-until 1200
    --model.competition.depth-order-from 75 --recipe.load-balancing-until 700""".split()


def arguments(run, *args, preset="quick", options=RECIPE):
    return [preset, *TINY_ARGS, *options, "--run", str(run), *args]


def train_alone(run, *args, **given):
    """Train in one process, which has been imported before."""
    log = run.with_suffix(".log")
    assert finish(start(arguments(run, *args, **given), log)) == 0, log.read_text()[-3000:]


def train_by_torchrun(run, *args):
    """Train in two processes, as a user starts them, but for their imports; what they said."""
    log = run.with_suffix(".log")
    # torchrun runs the script in forks of itself, which has been imported before
    launcher = "--standalone --nproc-per-node=2 --run-path --start-method=fork --".split()
    command = [*launcher, str(ROOT / "scripts/svi_train.py"), *arguments(run, *args)]
    status = finish(start(command, log, script="torch.distributed.run"), 240)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text()


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_learn_what_one_learns_and_resume_as_one(tmp_path):
    train_alone(tmp_path / "one", "--steps", "8")
    said = train_by_torchrun(tmp_path / "two", "--steps", "4")
    assert said.count("training ended") == 1
    train_alone(tmp_path / "two", "--resume", "--steps", "6")
    status, said = pair(arguments(tmp_path / "two", "--resume", "--steps", "8"), tmp_path)
    assert status == [0, 0], said
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [2, 4, 6, 8]
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "valid_loss", "x", "z", "r", "usage"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), (name, a["step"])
    a, b = (checkpoint.load_checkpoint(tmp_path / n / checkpoint.LAST) for n in ("one", "two"))
    guide = {name: w for name, w in a["weights"].items() if name.startswith("guide.")}
    frozen = [name for name in guide if name.split(".")[2] == "0"]
    assert 0 < len(frozen) < len(guide)
    for name, weight in guide.items():
        torch.testing.assert_close(weight, b["weights"][name], rtol=1e-3, atol=1e-4)
    for name in frozen:
        assert torch.equal(guide[name], b["weights"][name])


def test_two_processes_are_taught_what_one_is(tmp_path):
    """From seeds, then by the model itself; recomposed scenes are of each process's own images."""
    options = "--teaching.start 1 --teaching.seeds-until 3 --teaching.recomposed 0".split()
    given = {"preset": "learnt-unique-colours", "options": options}
    train_alone(tmp_path / "one", "--steps", "6", **given)
    status, said = pair(arguments(tmp_path / "two", "--steps", "6", **given), tmp_path)
    assert status == [0, 0], said
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in ("loss", "valid_loss", "x", "z", "r", "usage"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), (name, a["step"])


def test_one_process_is_a_group_of_its_own():
    cpu = torch.device("cpu")
    with join(cpu, 5) as (group, device):
        assert group == ProcessGroup() and group.first and device == cpu
        assert torch.equal(group.share(torch.arange(5)), torch.arange(5))
        assert group.any(True, cpu) and not group.any(False, cpu)
    assert torch.equal(ProcessGroup(1, 2).share(torch.arange(6)), torch.tensor([1, 3, 5]))


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    expected = "multiple of 4, the number of processes, got 5: set --train.batch 8"
    with pytest.raises(EconError, match=expected):
        with join(torch.device("cpu"), 5):
            pass


def pair(args, folder, interrupt=None):
    """Two processes that train together; their exit statuses, and what each said."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    logs = [folder / f"log-{rank}" for rank in range(2)]
    for log in logs:
        log.unlink(missing_ok=True)
    ranks = [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    both = [start(args, log, rank, interrupt) for log, rank in zip(logs, ranks, strict=True)]
    return [finish(process) for process in both], [log.read_text() for log in logs]


def test_a_process_without_validation_scenes_and_a_stop_of_one_of_them(tmp_path):
    """Two processes, one validation scene; then the second alone is told to stop."""
    options = [*OPTIONS, "--steps", "5", "--train.valid-scenes", "1", "--recipe.whitening"]
    one, two, parts = (tmp_path / name for name in ("one", "two", "parts"))
    log = tmp_path / "log"
    assert finish(start([*options, "--run", str(one)], log)) == 0, log.read_text()
    status, said = pair([*options, "--run", str(two)], tmp_path)
    assert status == [0, 0], said
    for a, b in zip(rows(one), rows(two), strict=True):
        for name in ("loss", "valid_loss", "x", "z", "r", "usage"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), (name, a["step"])
    status, said = pair([*options, "--run", str(parts)], tmp_path, (1, 3, signal.SIGTERM))
    assert status == [143, 143] and "stopped at step 4" in said[0], said
    last = parts / checkpoint.LAST
    state = checkpoint.load_checkpoint(last)
    assert state["step"] == 4 and state["sums"].shape == (2, 1, 3)
    assert not torch.equal(*state["sums"])  # each its own
    status, said = pair(["quick", "--run", str(parts), "--resume", "--device", "cpu"], tmp_path)
    assert status == [0, 0], said
    assert [without_clock(r) for r in rows(parts)] == [without_clock(r) for r in rows(two)]
    assert equal(*(without_clock(checkpoint.load_checkpoint(r / checkpoint.LAST))
                   for r in (parts, two)))  # fmt: skip
    status, said = pair([*options, "--run", str(two)], tmp_path)
    assert status == [2, 2] and "add --resume or --overwrite" in said[0]
    assert "Traceback" not in "".join(said)


def test_a_share_of_nothing_counts_nothing(tiny):
    scenes = GeneratedScenes(tiny.scenes, 0, 1)
    cpu = torch.device("cpu")
    x, _, count = Batches(tiny, scenes, scenes, cpu, ProcessGroup(1, 2)).validation()
    assert len(x) == 1 and count == 0
    econ = Econ(tiny)
    d = Learner(tiny, econ, cpu, ProcessGroup()).engine.decompose(x)
    whitening = LatentWhitening(econ.model, econ.guide, ProcessGroup())
    nothing, something = (whitening._moments(part) for part in (d[:0], d))
    assert not nothing.any() and something.any() and nothing.shape == something.shape


def test_no_images_are_refused(tiny):
    class Empty(GeneratedScenes):
        def __len__(self):
            return 0

    scenes, none = GeneratedScenes(tiny.scenes, 0, 1), Empty(tiny.scenes, 0, 1)
    for train, valid, what in ((none, scenes, "train on"), (scenes, none, "validate on")):
        with pytest.raises(EconError, match=f"at least 1 image to {what}, got none"):
            Batches(tiny, train, valid, torch.device("cpu"), ProcessGroup())


def test_where_the_first_process_fails_all_do():
    def fail():
        raise EconError("this", "that")

    cpu = torch.device("cpu")
    with pytest.raises(EconError, match="this"):
        ProcessGroup().lead(fail, cpu)

    class Told(ProcessGroup):
        def sum(self, value):
            return value + 1  # what the first one says

    with pytest.raises(EconError, match="the first process to succeed"):
        Told(1, 2).lead(fail, cpu)
