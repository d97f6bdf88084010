"""Searches from plan to report: killed, stopped and resumed, on tiny configurations."""

import csv
import json
import re
import signal
from collections import Counter

import pytest

from econ_pyro import cli
from econ_pyro.scripts import search, svi_train
from econ_pyro.training import checkpoint, study
from econ_pyro.training.child_runs import ChildProcesses
from econ_pyro.training.run_config import read_config_file
from helpers.kill_chains import finish, start
from helpers.paths import ROOT
from helpers.scripts import fails, script
from helpers.trainers import equal, without_clock

pytest.importorskip("optuna", reason="the extra search")

OPTIONS = """--model.size 16 --scenes.size 16 --model.num-experts 2 --model.num-slots 2
    --scenes.objects 1 --model.expert.attention.channels 4 4 --model.expert.attention.hidden 8
    --train.batch 2 --train.validate-every 2 --train.valid-scenes 2 --train.train-scenes 16
    --no-amp"""
SPACE = {
    "preset": "paper-unique-colours",
    "options": " ".join(OPTIONS.split()),
    "rungs": [2, 4],
    "parameters": {
        "model.expert.features": {"low": 3, "high": 6},
        "model.expert.layers": {"choices": [1, 2]},
        "objective.beta": {"low": 0.1, "high": 10.0, "log": True},
    },
}


def write_space(folder, **fields):
    path = folder / "space.json"
    path.write_text(json.dumps({**SPACE, **fields}))
    return path


def plan(folder, n, seed=1, **fields):
    """A planned study, with its folder."""
    space = write_space(folder, **fields)
    script("search", "plan", folder / "s", "--space", space, "--n", n, "--seed", seed)
    return folder / "s"


def reports(folder):
    """How often each configuration reported each rung, by the journal."""
    indices = {t.number: t.index for t in study.Study(folder).trials()}
    lines = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    return Counter((indices[x["trial_id"]], x["step"]) for x in lines if "intermediate_value" in x)


def rows(run):
    """The metrics of a run without the clock."""
    return [without_clock(row) for row in checkpoint.read_metrics(run / checkpoint.METRICS)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A study of twelve whose workers were killed twice and stopped once; what each said."""
    folder = plan(tmp_path_factory.mktemp("killed"), 12)
    log, stops = folder / "log", []
    for interrupt, code in [
        ((0, 1, signal.SIGKILL), -signal.SIGKILL),  # in the first step of all
        ((0, 3, signal.SIGKILL), -signal.SIGKILL),  # of the first that was promoted
        ((0, 3, signal.SIGTERM), 128 + signal.SIGTERM),  # of the same
        (None, 0),
    ]:
        args = ["work", str(folder), "--device", "cpu"]
        assert finish(start(args, log, interrupt=interrupt, script="search"), 300) == code, (
            log.read_text()[-2000:]
        )
        held = [t for t in study.Study(folder).trials() if t.state == "running"]
        steps = [_step(folder, t.index) for t in held]
        stops.append((interrupt, [(t.index, t.attrs["target"]) for t in held], steps))
    return folder, log.read_text(), stops


def _step(folder, index):
    return checkpoint.load_checkpoint(folder / f"{index:04d}" / checkpoint.LAST)["step"]


def test_each_of_twelve_is_trained_once_although_workers_are_killed(killed):
    folder, log, stops = killed
    assert [held for _, held, _ in stops[::3]] == [[(0, 2)], []]
    ((index, target),) = stops[1][1]
    assert target == 4 and stops[1][2] == [2]
    assert stops[2][1] == []  # SIGTERM gives it back, at the step that it had come to
    assert f"configuration {index:04d} waits for the next python scripts/search.py work" in log
    found = reports(folder)
    assert set(found.values()) == {1}
    assert Counter(rung for _, rung in found) == {2: 12, 4: 3}
    trials = study.Study(folder).trials()
    assert Counter(t.state for t in trials) == {"waiting": 9, "complete": 3}
    # the best three at the first rung, as all were ranked in the end
    best = sorted(trials, key=lambda t: -t.values[2])[:3]
    assert {t.index for t in best} <= {t.index for t in trials if 4 in t.values}


def test_what_was_killed_and_went_on_is_as_an_unbroken_run(killed, tmp_path):
    folder, _, stops = killed
    index = stops[1][1][0][0]
    trial = study.Study(folder).trials()[index]
    space = study.Study(folder).space
    whole = tmp_path / "whole"
    args = [space.preset, *space.arguments(trial.params), "--steps", 6, "--until", 4]
    script("svi_train", *args, "--run", whole, "--device", "cpu")
    assert rows(whole) == rows(folder / f"{index:04d}") and len(rows(whole)) == 2
    states = [
        checkpoint.load_checkpoint(path / checkpoint.LAST)["weights"]
        for path in (whole, folder / f"{index:04d}")
    ]
    assert equal(*states)


def test_the_elbo_is_the_validation_loss_without_weights(tmp_path, monkeypatch):
    parameters = {"model.expert.features": {"low": 3, "high": 6}}
    options = f"{SPACE['options']} --objective.beta 1 --objective.gamma 1"
    folder = plan(tmp_path, 1, parameters=parameters, options=options, rungs=[2])
    script("search", "work", folder)
    (trial,) = study.Study(folder).trials()
    (row,) = checkpoint.read_metrics(folder / "0000" / checkpoint.METRICS)
    assert trial.values[2] == pytest.approx(-row["valid_loss"], rel=1e-5)
    terms = trial.scores()
    assert trial.values[2] == pytest.approx(-(terms["x"] + terms["z"] + terms["r"]))
    assert trial.state == "complete" and (folder / "0000/evaluation.json").exists()
    script("search", "work", folder)  # nothing is left


def test_report_shows_and_writes_the_results(killed, tmp_path, capsys, monkeypatch):
    folder = killed[0]
    trials = study.Study(folder).trials()
    best = max((t for t in trials if 4 in t.values), key=lambda t: t.values[4])
    script("search", "report", folder, "--top", 2)
    out = capsys.readouterr().out
    assert "12 configurations: 0 have not reached the first rung" in out
    assert f"\n| 2 | 12 | {max(t.values[2] for t in trials):.1f} | " in out
    assert f"\n| {best.index:04d} | 4 | {best.values[4]:.1f} | " in out
    assert out.count("\n| 00") == 2
    table = csv.DictReader((folder / "report/trials.csv").read_text().splitlines())
    found = {(int(r["configuration"]), int(r["step"])): float(r["elbo"]) for r in table}
    assert found == {(t.index, step): v for t in trials for step, v in t.values.items()}
    for name in ("parameters.png", "distributions.png"):
        assert (folder / "report" / name).stat().st_size > 10_000
    # the preset file trains what was the best
    preset = folder / "best.json"
    assert f"svi_train.py {preset}" in out
    config = read_config_file(preset).config
    assert config.model.expert.features == best.params["model.expert.features"]
    run = tmp_path / "r"
    script("svi_train", preset, "--seed", 5, "--until", 2, "--run", run, "--device", "cpu")
    other = read_config_file(run / checkpoint.CONFIG).config
    assert other.seed == 5 and other.model == config.model


def test_final_trains_the_best_with_other_seeds(killed, capsys, monkeypatch):
    folder = killed[0]

    def call(self, command, run):  # in this process, which is faster
        script(command[0].split("/")[-1].removesuffix(".py"), *command[1:])

    monkeypatch.setattr(ChildProcesses, "call", call)
    args = ["report", folder, "--final", "--top", 1, "--seeds", "1", "--n", 4, "--steps", 2]
    script("search", *args)
    out = capsys.readouterr().out
    assert "held-out scenes\n" in out and "\n| 1 | " in out and "0 of 1 |" in out
    (preset,) = (folder / "final").glob("*.json")
    runs = {p.name for p in (folder / "final").iterdir() if p.is_dir()}
    assert runs == {f"{preset.stem}-seed-1"}


def test_a_training_that_diverges_fails_and_others_go_on(tmp_path, capsys):
    rates = {"train.lr": {"choices": [1e-3, 1e3]}}
    folder = plan(tmp_path, 3, parameters=rates, rungs=[4], seed=2)
    script("search", "work", folder)
    trials = study.Study(folder).trials()
    lost = {t.index for t in trials if t.params["train.lr"] > 1}
    assert 0 < len(lost) < 3
    assert {t.index for t in trials if t.state == "failed"} == lost
    assert {t.index for t in trials if t.state == "complete"} == set(range(3)) - lost
    script("search", "report", folder)
    assert f"failed {min(lost):04d}: expected a finite loss" in capsys.readouterr().out


def test_what_is_no_fault_of_a_configuration_stops_the_worker(tmp_path, capsys):
    parameters = {"model.expert.features": {"low": 3, "high": 6}}
    options = f"{SPACE['options']} --data {tmp_path / 'pictures'}"
    folder = plan(tmp_path, 2, parameters=parameters, options=options)
    assert "pictures" in fails(capsys, "search", "work", folder)
    trials = study.Study(folder).trials()
    assert all(t.state == "waiting" and not t.attrs.get("attempts") for t in trials)
    script("search", "report", folder)
    assert "2 have not reached the first rung" in capsys.readouterr().out


def test_workers_wait_for_others_whose_report_may_promote(tmp_path, monkeypatch):
    folder = plan(tmp_path, 1)
    other, waits = study.Study(folder), []
    with other.claim() as job:

        def sleep(seconds):
            waits.append(seconds)
            job.report(-1.0, {})
            raise KeyboardInterrupt

        monkeypatch.setattr(search.time, "sleep", sleep)
        with pytest.raises(KeyboardInterrupt):
            script("search", "work", folder)
    assert waits == [search.POLL]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("plan {tmp}/s --space nothing", "a .json file or one of paper-unique-colours"),
        ("plan {tmp}/s --space {space} --n 0", "--n from 1 to 100,000, got 0"),
        ("plan {tmp}/s --space {space} --rungs 3", "multiples of train.validate-every, 2"),
        ("plan {tmp}/s --space {space} --rungs 4 2", "increasing numbers of training steps"),
        ("plan {tmp}/s --space {space} --options=--minutes", "got --minutes"),
        ("plan {tmp}/s --space {space} --options=--train.stepps", "--train.stepps"),
        ("plan {tmp}/s --space {space} --options=--model.size=18", "a multiple of"),
        ("work {tmp}/s", "comes first"),
        ("report {tmp}/s", "comes first"),
        ("work {tmp}/s --max-jobs 0", "at least 1 for --max-jobs"),
        ("report {tmp}/s --top 0", "at least 1 for --top"),
    ],
)
def test_mistakes_are_one_line(args, message, tmp_path, capsys):
    given = args.format(tmp=tmp_path, space=write_space(tmp_path)).split()
    assert message in fails(capsys, "search", *given)
    assert not (tmp_path / "s").exists()


def test_the_space_of_the_guide_is_one(tmp_path):
    guide = (ROOT / "docs/guides/search.md").read_text()
    (text,) = re.findall(r"^```json\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    (tmp_path / "space.json").write_text(text)
    script("search", "plan", tmp_path / "s", "--space", tmp_path / "space.json", "--n", 2)
    assert len(study.Study(tmp_path / "s").trials()) == 2


@pytest.mark.parametrize("name", ["paper-unique-colours", "paper-random-colours"])
def test_the_papers_spaces_can_be_planned(name, tmp_path):
    script("search", "plan", tmp_path / "s", "--space", name, "--n", 2)


def test_mistakes_in_parameters_are_found_when_planning(tmp_path, capsys):
    for parameters, message in [
        ({"model.expert.featurs": {"low": 3, "high": 6}}, "model.expert.features"),
        ({"model.expert.features": {"low": -3, "high": 6}}, "at least 1 for model.expert.feat"),
        ({"train.lr": {"cases": {"a": {}, "b": {"objective.gama": {"choices": [1, 2]}}}}}, "gama"),
    ]:
        space = write_space(tmp_path, parameters=parameters)
        assert message in fails(capsys, "search", "plan", tmp_path / "s", "--space", space)


def test_a_run_that_stops_at_a_step_goes_on(tmp_path, capsys):
    args = ["svi_train", "paper-unique-colours", *SPACE["options"].split(), "--steps", 6]
    script(*args, "--run", tmp_path / "r", "--until", 2)
    assert "at step 2, saved in" in capsys.readouterr().out
    script(*args, "--run", tmp_path / "r", "--until", 2, "--resume")  # it is there already
    script(*args, "--run", tmp_path / "r", "--until", 4, "--resume")
    script(*args, "--run", tmp_path / "whole", "--until", 4)
    assert not (tmp_path / "r/evaluation.json").exists()
    metrics = [rows(tmp_path / run) for run in ("r", "whole")]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 2
    assert "at least 1 for --until" in fails(capsys, *args, "--until", 0)
    assert "config.json" in fails(capsys, "svi_train", tmp_path / "none/config.json")


def test_preset_files_keep_the_data(killed, tmp_path):
    file = tmp_path / "mine.json"
    stored = json.loads((killed[0] / "0000" / checkpoint.CONFIG).read_text())
    del stored["sha256"]
    file.write_text(json.dumps({**stored, "data": "pictures", "fit": "resize", "limit": 7}))
    parsed = cli.of_preset(svi_train.TrainArgs, [str(file), "--train.lr", "0.5"], None)
    assert (str(parsed.data), parsed.fit, parsed.limit) == ("pictures", "resize", 7)
    assert parsed.train.lr == 0.5 and parsed.model.num_experts == 2
    assert cli.label(str(file)) == "mine" and cli.label("quick") == "quick"
