"""A run that was cut short says what its schedule has not come to."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from econ_pyro import cli, presets
from econ_pyro.config import PlateauSchedule
from econ_pyro.files import locks, storage
from econ_pyro.training import checkpoint
from econ_pyro.training.progress import describe, describe_run
from econ_pyro.training.schedules import gamma_at, lowest_rate, rate_at, temperature_at, unfinished
from helpers.scripts import TINY_ARGS, script
from helpers.trainers import changed, make_trainer

QUICK = presets.PRESETS["quick"][1]


@pytest.mark.parametrize(
    ("step", "left"),
    [
        (60, {"depth-order-from (step 75)", "load-balancing-until (step 700)"}),
        (75, {"load-balancing-until (step 700)"}),
        (699, {"load-balancing-until (step 700)"}),
        (700, set()),
        (999, set()),
    ],
)
@pytest.mark.parametrize("preset", ["quick", "unique-colours"])  # shares of the run, and steps
def test_what_a_preset_has_not_come_to(preset, step, left):
    config = presets.PRESETS[preset][1]
    always = {
        "the end of the cosine rate (step 1000)",
        "gamma-until (step 1000)",
        "temperature-until (step 1000)",
    }
    found = {name.split(".")[-1] for name in unfinished(config, step, 1000)}
    assert found == always | left
    # an oracle: what is listed would have changed still, what is not would not
    competition = config.model.competition
    for at, of, name in (
        (gamma_at, config, "gamma"),
        (temperature_at, competition, "temperature"),
        (rate_at, config, "rate"),
    ):
        assert at(of, step, 1000) != at(of, 1000, 1000) and any(name in text for text in found)


def test_a_run_of_all_steps_has_nothing_left():
    assert unfinished(QUICK, 1000, 1000) == unfinished(QUICK, 1200, 1000) == []
    assert describe(QUICK, 1000, 1e-5, 60.0) == ""


def test_shares_of_the_run_are_of_the_horizon():
    """A run that its minutes end at step 400 of 1000 completes a preset of shares."""
    assert {text.split(".")[-1] for text in unfinished(QUICK, 20, 400)} == {
        "the end of the cosine rate (step 400)",
        "gamma-until (step 400)",
        "temperature-until (step 400)",
        "depth-order-from (step 30)",
        "load-balancing-until (step 280)",
    }
    assert unfinished(QUICK, 400, 400) == []
    line = describe(QUICK, 400, 1e-5, 1200.0, 400)
    assert line == "training has come to step 400 of 1000: go on with --resume and more --minutes"
    steps = presets.PRESETS["unique-colours"][1]
    assert {text.split(".")[-1] for text in unfinished(steps, 400, 400)} == {
        "gamma-until (step 1000)",
        "temperature-until (step 1000)",
        "load-balancing-until (step 700)",
    }


def test_how_to_go_on():
    assert describe(QUICK, 300, 1e-3, 1200.0).endswith("go on with --resume and more --minutes")
    assert describe(QUICK, 300, 1e-3, 1199.0).endswith("go on with --resume")
    plateau = PlateauSchedule()
    config = changed(
        QUICK,
        train__minutes=None,
        train__schedule=plateau,
        recipe__constant_colour_until=400,
        recipe__restart_until="50%",
    )
    line = describe(config, 300, 1e-3, 9e9)
    assert "step 300 of 1000;" in line and "recipe.constant-colour-until (step 400)" in line
    assert "recipe.restart-until (step 500)" in line and line.endswith("go on with --resume")
    low = 0.9 * lowest_rate(config.train.lr, plateau)
    fallen = describe(config, 300, low, 60.0)
    assert "fallen 5 times" in fallen and fallen.endswith("with shorter schedules")
    over = changed(
        config,
        objective__gamma_end=None,
        model__competition__temperature_end=None,
        model__competition__depth_order_from=None,
        recipe__load_balancing=0.0,
        recipe__constant_colour_until=0,
        recipe__restart_below=0.0,
    )
    assert describe(over, 300, low, 60.0) == ""


def test_a_run_tells_how_far_it_was_to_come(tiny, tmp_path):
    trainer = make_trainer(tiny, tmp_path / "run", 9)
    assert describe_run(tmp_path / "run", tiny) == ""  # no checkpoint
    done = []
    trainer.fit(lambda step, row: done.append(step), lambda: len(done) == 2)
    # config.json knows of 6 steps, as before --resume --steps 9
    assert "step 3 of 9" in describe_run(tmp_path / "run", tiny)


def test_training_and_evaluation_say_what_minutes_cut_off(tmp_path, capsys):
    run = tmp_path / "run"
    short = [*TINY_ARGS, "--steps", 50, "--minutes", 0.00001, "--train.schedule.kind", "cosine"]
    script("svi_train", "quick", *short, "--run", run)
    said = "training has come to step 1 of 50; its schedule is unfinished, not reached: the end of"
    assert said in capsys.readouterr().out
    script("evaluate", run, "--n", 4)
    assert said in capsys.readouterr().out
    assert said in json.loads((run / "evaluation.json").read_text())["training"]
    script("publish", run, tmp_path / "weights", "--n", 4)
    assert said in capsys.readouterr().out
    script("svi_train", "quick", "--run", run, "--resume", "--steps", 3, "--minutes", 9)
    script("evaluate", run, "--n", 4, "--json")
    assert "training has come" not in capsys.readouterr().out


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    script("svi_train", "quick", *TINY_ARGS, "--steps", 2, "--run", folder)
    return folder


def evaluated(run, capsys):
    capsys.readouterr()
    script("evaluate", run, "--n", 4, "--json")
    said = capsys.readouterr()
    return json.loads(said.out)["held-out"]["metrics"]["scenes"], said.err


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_evaluation_of_a_run_that_is_written_or_cannot_be(run, capsys, monkeypatch):
    before = contents(run)
    monkeypatch.setattr("econ_pyro.scripts.evaluate.WAIT", 0.1)
    with locks.hold_lock(run):  # as while it is trained
        scenes, said = evaluated(run, capsys)
    assert (
        scenes == 4 and f"process {os.getpid()} " in said and said.startswith("warning: figures")
    )
    assert contents(run) == before
    load = cli.pick_device

    def retrained(name):  # between looking and loading
        checkpoint.save_checkpoint(run / checkpoint.BEST,
                                   checkpoint.load_checkpoint(run / checkpoint.BEST))  # fmt: skip
        return load(name)

    monkeypatch.setattr(cli, "pick_device", retrained)
    scenes, said = evaluated(run, capsys)
    assert scenes == 4 and "got newer ones" in said
    monkeypatch.undo()

    def refuse(path):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(storage, "check_writable", refuse)
    monkeypatch.setattr(storage, "write_atomically", lambda path, write: refuse(path))
    before = contents(run)
    scenes, said = evaluated(run, capsys)
    assert scenes == 4 and said.count("Read-only file system") == 2  # before and after
    assert contents(run) == before
    monkeypatch.undo()
    scenes, said = evaluated(run, capsys)
    assert scenes == 4 and said == "" and contents(run) != before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts need root")
def test_a_run_on_a_disk_for_reading_alone(run, capsys):
    """The real thing, where the tests may mount."""
    mount = ["mount", "--bind", str(run), str(run)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounts are not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(run)], check=True)
        before = contents(run)
        scenes, said = evaluated(run, capsys)
        assert scenes == 4 and "Read-only file system" in said and contents(run) == before
        line = cli_error(capsys, "svi_train", "quick", "--run", str(run), "--resume")
        assert "Read-only file system" in line and str(Path(run)) in line
    finally:
        subprocess.run(["umount", str(run)], check=True)


def cli_error(capsys, name, *args):
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: script(name, *args))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]
