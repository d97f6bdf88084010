"""Variants of a preset from the command line, on a tiny configuration."""

import contextlib
import io
import json

import pytest

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


def test_variants_are_trained_once_and_compared(variants, tmp_path, capsys):
    path, value, called = variants
    out = tmp_path / "out"
    options = [path, "--seeds", "1,2", "--n", 8, "--out", out]
    script("ablate", *options)
    first = capsys.readouterr().out
    trained = [run for name, run in called if name == "svi_train"]
    assert trained == [f"{v}-seed-{s}" for s in (1, 2) for v in ("all-of-it", "no-whitening")]
    assert "| All of it | 0 of 2 |" in first and "| no whitening | 0 of 2 |" in first
    assert (out / "variants.md").read_text() == first
    stored = json.loads((out / "variants.json").read_text())
    assert set(stored["no whitening"]) == {"1", "2"} and "options" not in stored["All of it"]["1"]
    configs = [json.loads((out / f"{v}-seed-2" / "config.json").read_text())["config"]
               for v in ("all-of-it", "no-whitening")]  # fmt: skip
    assert [c["recipe"]["whitening"] for c in configs] == [True, False]
    script("ablate", *options, "--only", "no whitening")
    assert "All of it" not in capsys.readouterr().out
    assert len(called) == 8  # nothing more: 4 trained, 4 evaluated
    unknown = fails(capsys, "ablate", *options, "--only", "no whitenin")
    assert "did you mean no whitening" in unknown
    value["options"] += " --train.lr 1e-3"
    path.write_text(json.dumps(value))
    error = fails(capsys, "ablate", *options)
    assert "all-of-it-seed-1 was trained (nothing more), got --train.lr 1e-3: give" in error


def test_a_run_that_fails_counts_and_the_others_go_on(variants, tmp_path, capsys):
    path, value, called = variants
    value["variants"] = {"diverges": "", "all of it": ""}
    path.write_text(json.dumps(value))
    script("ablate", path, "--seeds", "1", "--n", 8, "--out", tmp_path / "out")
    out, err = capsys.readouterr()
    assert "warning: diverges-seed-1: expected svi_train.py to end well" in err
    row = next(line for line in out.splitlines() if "diverges" in line)
    assert row.startswith("| diverges | 0 of 1 | - | - |")
    assert "| all of it | 0 of 1 | " in out and ("svi_train", "all-of-it-seed-1") in called


def test_table_counts_successes():
    good = {"ari_fg": 0.99, "amodal_iou": 0.95, "class_accuracy": 0.99, "ooa": 0.93, "mse": 1e-4}
    bad = {**good, "amodal_iou": 0.5}
    lines = table({"one": {0: good, 1: bad, 2: {}}}).splitlines()
    assert lines[0].startswith("| variant | success | ARI | ARI-FG | visible IoU | amodal IoU |")
    assert lines[2].startswith("| one | 1 of 3 | - | 0.990 (0.990 to 0.990) | - | 0.725 (0.500 ")
