"""Reports of searches, from configurations that are made up."""

import csv

import pytest
from PIL import Image

from econ_pyro.evaluation import search_report
from econ_pyro.training import space_file
from econ_pyro.training.study import Trial

SPACE = space_file.parse(
    {
        "preset": "quick",
        "rungs": [10, 20, 40],
        "parameters": {
            "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "model.expert.features": {"low": 4, "high": 32},
            "gt-masks": {"choices": [True, False]},
            "reading": {"cases": {"a": {"objective.beta": {"low": 0.5, "high": 2.0}}, "b": {}}},
        },
    },
    "space.json",
)


def trial(index, *values, state="waiting", ari=None):
    """A configuration with these ELBOs."""
    found = dict(zip(SPACE.rungs, values, strict=False))
    scores = {} if ari is None else {f"scores-{r}": {"ari_fg": ari, "steps": r} for r in found}
    return Trial(index, index, SPACE.draw(0, index), state, found, scores)


TRIALS = [
    trial(0, -5.0, -4.0, state="complete"),
    trial(1, -3.0, -2.0, -1.5, state="complete"),
    trial(2, -1.0),
    trial(3),
    Trial(4, 4, SPACE.draw(0, 4), "failed", {10: 9.0}, {"error": "a finite loss"}),
    trial(5, -5.0, -3.0, -2.5, state="running"),
]


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_those_that_came_furthest_are_first():
    assert [t.index for t in search_report.ranked(TRIALS)] == [1, 5, 0, 2]


def test_overview_counts():
    text = search_report.overview(TRIALS, SPACE)
    assert text.startswith(
        "6 configurations: 1 have not reached the first rung, 1 are in training, 2 are complete, "
        "1 failed\n"
    )
    assert "\n| 10 | 5 | 9.0 | -3.0 | 0 |\n| 20 | 3 | -2.0 | -3.0 | 0 |\n" in text
    assert "\n| 40 | 2 | -1.5 | -2.0 | 0 |\n" in text and "\nfailed 0004: a finite loss" in text
    empty = search_report.overview([trial(0)], SPACE)
    assert "\n| 10 | 0 | - | - | 0 |\n" in empty


def test_successes_are_counted_at_each_rung():
    good = {"ari_fg": 0.99, "amodal_iou": 0.95, "class_accuracy": 1.0, "ooa": 0.95, "mse": 0.001}
    scores = {"scores-10": {**good, "mse": 0.1}, "scores-20": good}
    text = search_report.overview([Trial(0, 0, {}, "waiting", {10: 0.0, 20: 1.0}, scores)], SPACE)
    assert "\n| 10 | 1 | 0.0 | 0.0 | 0 |\n| 20 | 1 | 1.0 | 1.0 | 1 |\n" in text


def test_the_elbo_has_no_weights():
    summary = {"x": 100.0, "z": 10.0, "r": 1.0, "ari": 0.5, "ooa": None, "scenes": 8}
    elbo, kept = search_report.scores(summary, {"step": 30, "seconds": 90.0, "valid_loss": 7.0})
    assert elbo == -111.0
    assert kept == {"ari": 0.5, "x": 100.0, "z": 10.0, "r": 1.0, "steps": 30, "minutes": 1.5}


def test_importance_needs_some_configurations():
    assert search_report.importance(TRIALS, SPACE) == {}
    assert search_report.importance_table(TRIALS, SPACE) == ""


@pytest.mark.parametrize("ari", [None, 0.7])
def test_files(tmp_path, ari):
    pytest.importorskip("optuna", reason="the extra search")
    trials = []
    for i in range(40):
        worth = -abs(SPACE.draw(0, i)["model.expert.features"] - 20.0)
        trials.append(trial(i, worth, *([worth + 1] if i % 4 == 0 else []), ari=ari))
    trials.append(trial(40))
    paths = search_report.write(tmp_path, trials, SPACE)
    names = ["trials.csv", "parameters.png", "distributions.png", "importance.png"]
    assert [p.name for p in paths] == names
    sizes = [size_of(p) for p in paths[1:]]
    # five parameters in two rows of three; three panels where there is a ground truth
    assert sizes[0] == (1440, 928)
    assert sizes[1][0] == (736 if ari is None else 1536)
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert len(rows) == 40 + 10 + 1 and rows[-1]["elbo"] == "" and rows[-1]["step"] == "0"
    assert rows[0]["ari_fg"] == ("" if ari is None else "0.7")
    found = search_report.importance(trials, SPACE)
    assert next(iter(found)) == "model.expert.features"
    assert "| model.expert.features | 0." in search_report.importance_table(trials, SPACE)


def test_files_of_a_search_that_has_just_begun(tmp_path):
    assert [p.name for p in search_report.write(tmp_path, [trial(0)], SPACE)] == ["trials.csv"]
    few = search_report.write(tmp_path, [trial(0, -1.0), trial(1)], SPACE)
    assert [p.name for p in few][1:] == ["parameters.png", "distributions.png"]
