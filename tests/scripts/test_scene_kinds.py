"""Each further kind of scene, from training to evaluation."""

import json

import pytest

from helpers.scripts import TINY_ARGS, script

KINDS = {
    "textured": ["--scenes.background", "any"],
    "clevr-like": ["--scenes.background", "grey", "--scenes.rotate"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_trained_on_and_measured(tmp_path, capsys, kind):
    run = tmp_path / "run"
    options = [*TINY_ARGS, "--scenes.kind", kind, *KINDS[kind], "--steps", 2]
    script("svi_train", "quick", *options, "--run", run)
    capsys.readouterr()
    script("evaluate", run, "--n", 4, "--ood", "--corrupt", "texture=0.2", "--json")
    reports = json.loads(capsys.readouterr().out)
    classes = reports["held-out, texture=0.2"]["classes"]
    assert len(classes) == 4 and ("cube" in classes) == (kind == "clevr-like")
    for name in ("near background", "5 objects", "2 spare layers"):
        assert reports[name]["metrics"]["amodal_iou"] is not None
