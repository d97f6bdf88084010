"""Variants of a preset from the command line, on a tiny configuration."""

import contextlib
import io
import json

import pytest

from econ_pyro.errors import EconError
from econ_pyro.scripts.ablate import table
from econ_pyro.training.child_runs import ChildError, ChildProcesses
from helpers.scripts import TINY_ARGS, fails, script


@pytest.fixture
def variants(tmp_path, monkeypatch):
    """A file of two variants, which are trained in this process; the commands that were called."""
    called = []

    def call(self, command, run):
        name = command[0].rsplit("/", 1)[-1].removesuffix(".py")
        called.append((name, run.name))
        if run.name.startswith("diverges"):
            raise ChildError("svi_train.py to end well", "status 2")
        with contextlib.redirect_stdout(io.StringIO()):
            script(name, *command[1:])

    monkeypatch.setattr(ChildProcesses, "call", call)
    path = tmp_path / "mine.json"
    names = {"All of it": "", "no whitening": "--recipe.no-whitening"}
    value = {"preset": "quick", "options": " ".join([*TINY_ARGS, "--steps 2"]), "variants": names}
    path.write_text(json.dumps(value))
    return path, value, called


def write(path, value, **changes):
    path.write_text(json.dumps(value | changes))


def test_variants_are_trained_once_and_compared(variants, tmp_path, capsys):
    path, value, called = variants
    out = tmp_path / "out"
    options = [path, "--seeds", "1,2", "--n", 8, "--out", out]
    script("ablate", *options)
    first = capsys.readouterr().out
    trained = [run for name, run in called if name == "svi_train"]
    assert trained == [f"{v}-seed-{s}" for s in (1, 2) for v in ("all-of-it", "no-whitening")]
    assert "| All of it | 0 of 2 |" in first and "| no whitening | 0 of 2 |" in first
    assert (out / "table.md").read_text() == first
    stored = json.loads((out / "scores.json").read_text())
    assert set(stored["no whitening"]) == {"1", "2"}
    configs = [json.loads((out / f"{v}-seed-2" / "config.json").read_text())["config"]
               for v in ("all-of-it", "no-whitening")]  # fmt: skip
    assert [c["recipe"]["whitening"] for c in configs] == [True, False]
    # variants that are left out keep their rows, a further one is trained, nothing else is
    further = value["variants"] | {"No occlusion": "--recipe.occlusion 0"}
    write(path, value, variants=further)
    script("ablate", *options, "--only", "No occlusion")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[:2] == first.splitlines()[2:] and rows[2].startswith("| No occlusion | 0 of 2 |")
    assert len(called) == 12  # 6 trained, 6 evaluated
    # of the runs, these files are enough
    for file in out.glob("*/**/*"):
        if file.is_file() and file.name not in ("config.json", "held-out.json"):
            file.unlink()
    script("ablate", *options, "--read")
    assert capsys.readouterr().out.splitlines()[2:] == rows and len(called) == 12
    script("ablate", *options, "--n", 9, "--read")  # evaluated on others
    assert "| All of it | 0 of 2 (2 without scores) | - |" in capsys.readouterr().out
    assert (out / "table.md").read_text().splitlines()[2:] == rows
    assert "got none" in fails(capsys, "ablate", path, "--read", "--out", tmp_path / "none")
    unknown = fails(capsys, "ablate", *options, "--only", "no whitenin")
    assert "did you mean no whitening" in unknown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "unique-colours"}, "got --model.expert.attention.patch 1"),
        ({"variants": {"All of it": "", "no whitening": ""}}, "got --recipe.whitening True"),
        ({"variants": {"All of it": "--train.lr 1e-3"}}, "0.002, got --train.lr 0.001"),
    ],
)
def test_runs_of_another_configuration_are_refused_before_any_is_trained(
    variants, tmp_path, capsys, changes, words
):
    path, value, called = variants
    options = [path, "--seeds", "1", "--n", 8, "--out", tmp_path / "out"]
    script("ablate", *options, "--only", "no whitening")
    # as a run that was stopped, of which nothing but this is known
    stopped = tmp_path / "out" / "all-of-it-seed-1"
    stopped.mkdir()
    config = json.loads((tmp_path / "out" / "no-whitening-seed-1" / "config.json").read_text())
    config["config"]["recipe"]["whitening"], config["config"]["seed"] = True, 1
    del config["sha256"]
    (stopped / "config.json").write_text(json.dumps(config))
    before = len(called)
    write(path, value, **changes)
    error = fails(capsys, "ablate", *options)
    assert words in error and "--out" in error and len(called) == before


def test_wrong_options_are_reported_before_any_run_is_trained(variants, tmp_path, capsys):
    path, value, called = variants
    write(path, value, variants={"a": "", "b": "--recipe.wihtening"})
    error = fails(capsys, "ablate", path, "--out", tmp_path / "out")
    assert "--recipe.wihtening" in error and "did you mean --recipe.whitening?" in error
    assert not called


def test_a_run_that_fails_counts_and_the_others_go_on(variants, tmp_path, capsys):
    path, value, called = variants
    write(path, value, variants={"diverges": "", "all of it": ""})
    error = fails(capsys, "ablate", path, "--seeds", "1", "--n", 8, "--out", tmp_path / "out")
    assert error == "error: expected 2 runs to end well, got 1 failures: diverges-seed-1"
    rows = (tmp_path / "out" / "table.md").read_text().splitlines()[2:]
    assert rows[0].startswith("| diverges | 0 of 1 (1 without scores) | - | - |")
    assert rows[1].startswith("| all of it | 0 of 1 | ") and "without" not in rows[1]
    assert ("svi_train", "all-of-it-seed-1") in called


def test_a_stop_is_no_failure(variants, tmp_path, capsys, monkeypatch):
    path, value, _ = variants

    def stopped(self, command, run):
        raise EconError("svi_train.py to end well", "status 143: stopped")

    monkeypatch.setattr(ChildProcesses, "call", stopped)
    error = fails(capsys, "ablate", path, "--seeds", "1", "--out", tmp_path / "out")
    assert "status 143" in error and not (tmp_path / "out" / "table.md").exists()


@pytest.mark.parametrize(("code", "kind"), [(1, ChildError), (130, EconError), (143, EconError)])
def test_children_that_were_stopped_are_told_from_those_that_failed(tmp_path, code, kind):
    script = tmp_path / "ends.py"
    script.write_text(f"raise SystemExit({code})")
    with pytest.raises(EconError, match=f"status {code}") as error:
        ChildProcesses(1).call([str(script)], tmp_path / "run")
    assert type(error.value) is kind


def test_table_counts_successes():
    good = {"ari_fg": 0.99, "amodal_iou": 0.95, "class_accuracy": 0.99, "ooa": 0.93, "mse": 1e-4}
    bad = {**good, "amodal_iou": 0.5}
    lines = table({"one": {0: good, 1: bad, 2: {}}}).splitlines()
    assert lines[0].startswith("| variant | success | ARI | ARI-FG | visible IoU | amodal IoU |")
    row = "| one | 1 of 3 (1 without scores) | not defined | 0.990 (0.990 to 0.990) "
    row += "| not defined | 0.725 "
    assert lines[2].startswith(row)
