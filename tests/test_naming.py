"""Names of experts: whatever files are called, each is found by its name, and none acts."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from econ_pyro import cli, errors, naming
from econ_pyro.econ import Econ, load, load_expert
from econ_pyro.errors import EconError
from econ_pyro.evaluation.specialisation import distinct_names, names_by_majority
from econ_pyro.files.storage import write_json
from econ_pyro.io import scene_file
from econ_pyro.io.expert_file import save_expert
from econ_pyro.io.model_card import model_card
from econ_pyro.viz.training_curves import training_curves
from helpers.scripts import TINY_ARGS, fails, script

SEVERAL = ["background", "1", "my blue object", "0", "red", "red ball"]


@pytest.fixture
def econ(tiny):
    model = dataclasses.replace(tiny.model, num_experts=6)
    return Econ(dataclasses.replace(tiny, model=model), names=SEVERAL)


def test_names_are_usable_everywhere(econ, tmp_path):
    for i, name in enumerate(SEVERAL):
        assert econ.find_experts([name, i]) == [i, i]
        assert econ.drop(name).names == [n for n in SEVERAL if n != name]
        assert econ.with_experts([name, 0]).names[0] == name
        assert econ.sample(1, scene=f"red {name}", seed=0).k.tolist() == [[i, 4]]
        assert econ.sample(1, experts=[name, "red"], seed=0).k.tolist() == [[4, i]]
        layer = {"expert": name, "z": [0.0, 0.0]}
        value = {"version": 1, "width": 16, "height": 16, "layers": [layer]}
        assert scene_file.parse_scene(value, SEVERAL).layers[0].expert == i
    econ.freeze("my blue object", 1)
    assert [e.index for e in econ.experts if not next(e.decoder.parameters()).requires_grad] == [
        1, 2,
    ]  # fmt: skip
    econ.save_pretrained(tmp_path / "w")
    assert load(tmp_path / "w").names == SEVERAL
    save_expert(tmp_path / "e.safetensors", econ.experts[2])
    assert load_expert(tmp_path / "e.safetensors").name == "my blue object"
    new = econ.with_experts(econ.experts)
    assert new.config.names == tuple(SEVERAL) and Econ(new.config).names == SEVERAL


def test_a_name_goes_before_an_index_and_the_longest_name_first():
    assert naming.find_experts(SEVERAL, ["1", 1, "0", 0, "5", " my  blue object "]) == [
        1,
        1,
        3,
        0,
        5,
        2,
    ]
    assert naming.parse_scene(SEVERAL, "red ball 2  red 1") == [5, 2, 4, 1]
    # the longest first, unless the rest cannot be read then
    assert naming.parse_scene(["a", "a b", "b", "b c"], "a b a b c") == [1, 0, 3]
    assert naming.find_experts(["cafe\u0301"], ["caf\u00e9"]) == [0]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("horse", r"experts from background, 1, .*, got 'horse': python scripts/evaluate.py"),
        ("9", r"an expert from 0 to 5, got 9: they are background, 1,"),
        ("9" * 5000, r"an expert from 0 to 5, got 99999999999999999\.\.\.: "),
        ("\u00b2", "got '\u00b2'"),
        (-1, "from 0 to 5, got -1"),
        ("-1", "got -1"),
        ("\x1b[2J", r"got '\\x1b\[2J'"),
        ("", "got ''"),
    ],
)
def test_what_is_no_expert_is_said(wanted, message):
    with pytest.raises(EconError, match=message):
        naming.find_experts(SEVERAL, [wanted])


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "at least one expert"), ("red bell ball", "'bell'"), ("my blue", "'my'"), ("1 ", None)],
)
def test_scenes_of_names_that_cannot_be_read(text, message):
    if message is None:
        assert naming.parse_scene(SEVERAL, text) == [1]
        return
    with pytest.raises(EconError, match=message):
        naming.parse_scene(SEVERAL, text)


@given(
    names=st.lists(st.text("ab 12-", min_size=1, max_size=6), min_size=1, max_size=5),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_every_scene_of_names_is_read_as_those_words(names, data):
    names = distinct_names([naming.clean_name(name) for name in names])
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    found = naming.parse_scene(names, " ".join(chosen))
    words = " ".join(names[i] for i in found)
    # an index can be read where its digits are no name
    assert len(found) <= len(" ".join(chosen).split())
    assert words == " ".join(chosen) or any(w.isdigit() for w in " ".join(chosen).split())


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_text_becomes_a_name(text):
    name = naming.clean_name(text)
    naming.check_names([name], "here")
    assert naming.clean_name(name) == name and 1 <= len(name) <= 100
    assert name.isprintable()
    assert errors.printable(text, 100).isprintable()


@pytest.mark.parametrize(
    "bad", ["", " a", "a\nb", "\x1b[2J", "\u202eabc", "\ud800", "x" * 101, 3, None, ["a"]]
)
def test_names_that_files_may_not_have(tiny, tmp_path, bad):
    Econ(tiny, names=["a", "b", "c"]).save_pretrained(tmp_path)
    write_json(tmp_path / "experts.json", {"names": ["a", "b", bad]})
    with pytest.raises(EconError, match="names of 1 to 100 printable .*experts.json, got") as e:
        load(tmp_path)
    assert str(e.value).isprintable() and len(str(e.value)) < 500


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "a"], "abc", {"a": 1}, None])
def test_as_many_different_names_as_experts(tiny, tmp_path, names):
    Econ(tiny).save_pretrained(tmp_path)
    write_json(tmp_path / "experts.json", {"names": names})
    with pytest.raises(EconError, match="3 different names in .*experts.json"):
        load(tmp_path)


def test_numbered_names_stay_and_all_differ():
    assert distinct_names(["a", "a", "a-2"]) == ["a", "a-3", "a-2"]
    assert distinct_names(["x" * 100, "x" * 100]) == ["x" * 100, "x" * 98 + "-2"]
    wins = torch.tensor([[9, 8, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0]])
    assert names_by_majority(wins, ["circle", "circle-2"]) == [
        "circle", "circle-3", "circle-2", "unused-3",
    ]  # fmt: skip
    assert names_by_majority(wins, ["unused-3", "a\n\x1bb"]) == [
        "unused-3", "unused-2", "a \\x1bb", "unused-4",
    ]  # fmt: skip


def test_names_only_show(tiny, tmp_path):
    bad = ["$x^$ `<img src=x>` | *a*", "_y", "[z](http://a)"]
    card = model_card('a"`\n# b', dataclasses.replace(tiny, names=()), bad)
    assert r"- 0: \$x^\$ \`&lt;img src=x&gt;\` \| \*a\*" in card
    assert r"\[z\](http://a)" in card and "\n# b" not in card
    rows = [{"step": i, "loss": 1.0, "lr": 0.1, "usage": [0.5, 0.3, 0.2]} for i in (1, 2)]
    assert training_curves(rows, tmp_path / "c.png", bad).exists()  # no formula to parse
    with pytest.raises(EconError, match=r"an SPDX identifier as licence, got 'mit\\nevil: 1'"):
        model_card("a", tiny, bad, licence="mit\nevil: 1")


def test_an_error_is_one_line_that_no_terminal_acts_upon(capsys):
    def main():
        raise EconError("a file", "a\nb\x1b[2J.png")

    with pytest.raises(SystemExit):
        cli.run(main)
    assert capsys.readouterr().err == "error: expected a file, got a\\nb\\x1b[2J.png\n"


def test_sprites_of_any_name_are_trained_on_and_asked_for(tmp_path, capsys):
    from PIL import Image, ImageDraw

    sprites, run = tmp_path / "sprites", tmp_path / "run"
    sprites.mkdir()
    for name, sides in (("2", 3), ("a \x1b[1mbold one", 4)):
        image = Image.new("RGBA", (16, 16))
        ImageDraw.Draw(image).regular_polygon((8, 8, 7), sides, fill="red")
        image.save(sprites / f"{name}.png")
    options = ["--scenes.sprites", sprites, "--steps", 2]
    script("svi_train", "quick", *TINY_ARGS, *options, "--run", run)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    names = load(run).names
    assert all(name.isprintable() for name in names)
    few = ["--n", 1, "--out"]
    script("sample", run, "--experts", *names, *few, tmp_path / "e")
    script("sample", run, "--scene", " ".join(names), *few, tmp_path / "s")
    first, second = ((tmp_path / f"{o}/scene-000.png").read_bytes() for o in "es")
    assert first == second
    error = fails(capsys, "sample", run, "--experts", "a \x1b[1m", *few, tmp_path / "o")
    assert "\x1b" not in error and "experts from" in error
    assert json.loads((run / "experts.json").read_text())["names"] == names
