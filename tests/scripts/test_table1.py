"""scripts/table1.py on two tiny systems, trained in this process."""

import json
from pathlib import Path

import pytest

from econ_pyro.config import FORMAT, to_dict
from econ_pyro.errors import EconError
from econ_pyro.training import checkpoint
from econ_pyro.training.child_runs import ChildError, ChildProcesses
from helpers.judges import ByColour
from helpers.scripts import fails, script
from helpers.small_systems import SYSTEMS
from helpers.trainers import TINY, changed


@pytest.fixture
def here(monkeypatch):
    """Train in this process; the commands that were called."""
    called = []

    def call(self, command, run):
        called.append(command)
        script(Path(command[0]).stem, *command[1:])

    monkeypatch.setattr(ChildProcesses, "call", call)
    return called


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    """Nobody waits for a judge to be trained."""
    monkeypatch.setattr("econ_pyro.evaluation.table1.train_judge", lambda scenes: ByColour())


FEW = ["--n", 8, "--samples", 4, "--requests", 4, "--clustered", 8, "--rounds", 1]


@pytest.fixture
def systems(tmp_path):
    """Files of two configurations, one of them ECON's."""
    found = {"econ": changed(TINY, train__valid_scenes=8), "monet": SYSTEMS["monet"]}
    for name, config in found.items():
        text = json.dumps({"format": FORMAT, "config": to_dict(config)})
        (tmp_path / f"{name}.json").write_text(text)
    return [tmp_path / f"{name}.json" for name in found]


def test_runs_are_trained_once_and_measured_side_by_side(
    tmp_path, systems, here, capsys, monkeypatch
):
    out = tmp_path / "out"
    options = ["--systems", *systems, "--data", "random-colours", "--seeds", "1,2", "--steps", 2,
               "--batch", 4, *FEW, "--out", out]  # fmt: skip
    # a run that was stopped goes on
    stopped = out / "steps-2/monet-random-colours-seed-2"
    given = ["--seed", 2, "--scenes.kind", "random-colours", "--steps", 2, "--train.batch", 4]
    script("svi_train", systems[1], "--run", stopped, *given, "--until", 1)
    assert not checkpoint.read_metrics(stopped / checkpoint.METRICS)
    script("table1", *options, "--strips")
    first = capsys.readouterr().out
    resumed = [command for command in here if "--resume" in command]
    assert len(here) == 4 and [str(stopped) in command for command in resumed] == [True]
    strips = {path.name for path in (out / "strips").glob("*.png")}
    assert strips == {f"{name}-random-colours-seed-1-steps-2.png" for name in ("econ", "monet")}
    table = json.loads((out / "table1.json").read_text())
    (group,) = table["groups"]
    rows = {row["system"]: row for row in group["decompose"]}
    assert set(rows) == {"position only", "one-colour components", "econ", "monet"}
    for name in ("econ", "monet"):
        assert set(rows[name]["runs"]) == {"1", "2"} and rows[name]["of"] == 2
        assert {run["steps"] for run in rows[name]["runs"].values()} == {2}
    assert (out / "table1.md").read_text() in first and "| steps-2 | 0 of 2 |" in first
    references = {"coherent": 3, "recombine": 2, "inference": 0}
    for part, count in references.items():
        names = [row["system"] for row in group[part]]
        assert names[count:] == ["econ", "monet"] and len(names) == count + 2
    (scores,) = group["inference"][1]["runs"].values()
    assert scores["ms_64"] > 0 and scores["passes"] > 0
    (first_seed, _) = group["recombine"][-1]["runs"].values()
    assert first_seed["control"] == "clusters of slots"
    # all there: nothing is measured again
    loaded = []
    monkeypatch.setattr("econ_pyro.scripts.table1.load_model", loaded.append)
    script("table1", *options, "--rows", "decompose", "coherent", "recombine")
    assert len(here) == 4 and not loaded and capsys.readouterr().out[:400] in first


def test_a_failed_run_counts_and_the_others_go_on(tmp_path, systems, here, capsys, monkeypatch):
    train = ChildProcesses.call

    def call(self, command, run):
        if "-seed-0" in run.name:
            raise ChildError("a finite loss", "nan")
        train(self, command, run)

    monkeypatch.setattr(ChildProcesses, "call", call)
    options = ["--systems", systems[1], "--data", "unique-colours", "--seeds", "0,1", "--batch", 4]
    options += ["--n", 4, "--steps", 2, "--out", tmp_path / "out", "--rows", "decompose"]
    with pytest.raises(EconError, match="1 failures: monet-unique-colours-seed-0"):
        script("table1", *options)
    printed = capsys.readouterr()
    assert "| steps-2 | 0 of 2 |" in printed.out and "got nan" in printed.err


def test_a_stop_is_no_failure(tmp_path, systems, monkeypatch):
    def call(self, command, run):
        raise EconError("svi_train.py to end well", "status 143: stopped")

    monkeypatch.setattr(ChildProcesses, "call", call)
    options = ["--systems", systems[1], "--data", "unique-colours", "--seeds", "0", "--steps", 2]
    with pytest.raises(EconError, match="svi_train.py to end well"):
        script("table1", *options, "--out", tmp_path / "out")


def test_budgets_stand_side_by_side(tmp_path, systems, here, capsys):
    out = tmp_path / "out"
    options = ["--systems", systems[1], "--data", "unique-colours", "--seeds", "0", "--batch", 4,
               "--n", 4, "--rows", "decompose", "--out", out]  # fmt: skip
    assert "runs of" in fails(capsys, "table1", *options, "--read")
    script("table1", *options, "--steps", 2)
    script("table1", *options, "--minutes", 0.001)
    assert ["--steps", "10000000"] in [here[-1][i : i + 2] for i in range(len(here[-1]))]
    capsys.readouterr()
    script("table1", *options, "--read")
    printed = capsys.readouterr().out
    assert "| minutes-0.001 |" in printed and "| steps-2 |" in printed and len(here) == 2
    other = [*options[:-2], "--out", out, "--steps", 2, "--batch", 2]
    assert "the configuration of" in fails(capsys, "table1", *other)
    assert "above 0, got -1" in fails(capsys, "table1", *options, "--minutes", -1)
    assert "one budget" in fails(capsys, "table1", *options, "--steps", 2, "--minutes", 1)


def test_unknown_systems_are_refused_also_if_nothing_is_trained(tmp_path, capsys):
    options = ["--systems", "monett", "--read", "--out", tmp_path]
    assert "a preset among" in fails(capsys, "table1", *options)
