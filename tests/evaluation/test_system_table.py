"""Tables of several systems: medians, ranges, successes, and what is not there."""

import pytest
import torch

from econ_pyro.evaluation import decompose_reconstruct
from econ_pyro.evaluation.evaluate import held_out
from econ_pyro.evaluation.system_table import Row, cell, markdown, number, reference, successes
from econ_pyro.scene_config import SceneConfig


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5], "0.500"),
        ([0.9, 0.2, 0.4], "0.400 (0.200 to 0.900)"),
        ([0.9, None, 0.2], "0.550 (0.200 to 0.900)"),
        ([300, 100], "100 (100 to 300)"),
        ([None, None], "not defined"),
        (["needs it", "needs it"], "needs it"),
        ([], "-"),
    ],
)
def test_a_cell_has_the_middle_and_the_ends(values, text):
    assert cell(values) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (0.0012, "0.0012"), (0.00001, "0.000010"), (12.34, "12.3"), (7, "7"),
     (1234.5, "1,234"), (20_000, "20,000")],
)  # fmt: skip
def test_numbers_have_few_digits(value, text):
    assert number(value) == text


def test_successes_keep_the_bound_and_failed_runs_count():
    runs = {0: {"ari_fg": 0.95}, 1: {"ari_fg": 0.949}, 2: {"ari_fg": None}}
    assert successes(Row("a", "b", runs, 4)) == "1 of 4"
    assert successes(reference("c", {"ari_fg": 1.0})) == "-"


def test_a_row_per_system():
    rows = [reference("floor", {"mse": 1.0}), Row("monet", "minutes-20", {3: {"mse": 0.5}}, 2)]
    lines = markdown(rows, {"mse": "MSE", "ooa": "order"}, counted=True).splitlines()
    assert lines[0] == "| system | budget | ARI-FG >= 0.95 | MSE | order |"
    assert lines[2] == "| floor | - | - | 1.000 | not defined |"
    assert lines[3] == "| monet | minutes-20 | 0 of 2 | 0.500 | not defined |"
    assert rows[1].as_json()["runs"] == {"3": {"mse": 0.5}}


def test_references_know_the_scenes():
    scenes = SceneConfig(size=16)
    rows = {row.system: row.runs[0] for row in decompose_reconstruct.references(scenes, 20, 4)}
    exact, blind = rows["one-colour components"], rows["position only"]
    assert exact["ari_fg"] > 0.95 > 0.7 > blind["ari_fg"] > 0.3
    assert exact["mse"] < blind["mse"] and exact["minutes"] == "-" and "ooa" not in exact
    first = held_out(scenes, 2).images(torch.arange(2))
    assert not torch.equal(first[0], first[1])
