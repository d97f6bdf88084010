"""Evaluation results beside the model card, read back as the Hugging Face hub's library does."""

import json
import re

import pytest

from econ_pyro.errors import EconError
from econ_pyro.io.eval_results import DATASET, RESULTS, eval_results
from econ_pyro.io.model_card import FIGURES
from helpers.scripts import TINY_ARGS, fails, script

REPORTS = {
    "held-out": {"metrics": {"ari_fg": 0.25, "mse": 1e-3, "ooa": None, "scenes": 1000}},
    "near background": {"metrics": {"ari_fg": 1}},
}
YAML = """\
- dataset:
    id: "me/scenes"
    task_id: "held_out_ari_fg"
  value: 0.25000000
  notes: "1000 scenes: \\"all\\""
- dataset:
    id: "me/scenes"
    task_id: "held_out_mse"
  value: 0.00100000
  notes: "1000 scenes: \\"all\\""
- dataset:
    id: "me/scenes"
    task_id: "near_background_ari_fg"
  value: 1.00000000
  notes: "1000 scenes: \\"all\\""
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    script("svi_train", "quick", *TINY_ARGS, "--steps", 1, "--run", folder)
    return folder


def test_the_file_as_a_whole():
    assert eval_results(REPORTS, "me/scenes", '1000 scenes: "all"') == YAML
    assert "notes" not in eval_results(REPORTS)
    assert eval_results({"held-out": {"metrics": {"ooa": None}}}) == "[]\n"


@pytest.mark.parametrize("name", ["scenes", "a/b/c", "a/..", "-a/b", "a/b\nc", "a b/c", "", "ä/b"])
def test_datasets_are_names_on_the_hub(name):
    with pytest.raises(EconError, match="OWNER/NAME"):
        eval_results(REPORTS, name)


@pytest.mark.needs("huggingface_hub", "yaml")
def test_the_hub_library_reads_it():
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries

    for notes in ('1000 scenes: "all"', "- # : é \U0001f98b \\ '", "a\nb\x1b\x85\u2028c"):
        data = yaml.safe_load(eval_results(REPORTS, "me/scenes", notes))
        entries = parse_eval_result_entries(data)
        assert eval_result_entries_to_yaml(entries) == data  # no field that the hub does not know
        assert [(e.dataset_id, e.task_id, e.value) for e in entries] == [
            ("me/scenes", "held_out_ari_fg", 0.25),
            ("me/scenes", "held_out_mse", 0.001),
            ("me/scenes", "near_background_ari_fg", 1.0),
        ]
        if notes.isprintable():
            assert {e.notes for e in entries} == {notes}


def test_publish_writes_what_it_measured(run, tmp_path, capsys):
    out = tmp_path / "weights"
    script("publish", run, out, "--n", 4, "--shifted")
    assert f"{out / RESULTS}: " in capsys.readouterr().out
    text = (out / RESULTS).read_text()
    assert set(re.findall(r"id: \"(.*/.*)\"", text)) == {DATASET}
    found = dict(re.findall(r'task_id: "(\w+)"\n  value: (\S+)\n', text))
    reports = json.loads((out / "evaluation.json").read_text())
    assert len(reports) > 1
    expected = {
        f"unique_colours_{re.sub('[- ]', '_', name)}_{metric}": report["metrics"][metric]
        for name, report in reports.items()
        for metric, *_ in FIGURES
        if report["metrics"].get(metric) is not None
    }
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, abs=1e-8)


def test_own_data_needs_a_name_on_the_hub(run, tmp_path, capsys):
    data = tmp_path / "data"
    script("make_dataset", data, "--size", 16, "--n", 4, "--n-valid", 4)
    script("publish", run, tmp_path / "a", "--data", data)
    assert not (tmp_path / "a" / RESULTS).exists()
    script("publish", run, tmp_path / "b", "--data", data, "--dataset", "me/scenes")
    text = (tmp_path / "b" / RESULTS).read_text()
    assert 'id: "me/scenes"' in text and 'task_id: "data_ari_fg"' in text
    error = fails(capsys, "publish", run, tmp_path / "c", "--dataset", "scenes")
    assert "OWNER/NAME, got 'scenes'" in error and not (tmp_path / "c").exists()
