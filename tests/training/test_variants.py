"""Files of variants of a preset, and the ladders that are built in."""

import json

import pytest

from econ_pyro import presets
from econ_pyro.cli import config_of, of_preset
from econ_pyro.errors import EconError
from econ_pyro.scripts.svi_train import TrainArgs
from econ_pyro.training.variants import BUILT_IN, Variants, parse, read_variants


def variants(**changes):
    """A description of two variants."""
    return {"preset": "quick", "variants": {"a": "", "b c": "--train.lr 1e-3"}} | changes


def parsed(preset, options):
    return of_preset(TrainArgs, [preset, *options], None)


def test_each_variant_has_the_common_options(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(variants(options="--steps 3", preset="random-colors")))
    found = read_variants(str(path))
    assert found.preset == "random-colours"
    assert found.variants == {"a": ("--steps", "3"), "b c": ("--steps", "3", "--train.lr", "1e-3")}


def test_cumulative_variants_have_the_options_of_those_before():
    rungs = {"a": "--x 1", "b": "--y 'two words'", "c": "--x 2"}
    found = parse(variants(cumulative=True, options="--w 0", variants=rungs), "mine.json")
    assert found.variants["b"] == ("--w", "0", "--x", "1", "--y", "two words")
    assert found.variants["c"] == ("--w", "0", "--x", "1", "--y", "two words", "--x", "2")


def test_names_become_names_of_folders():
    names = {
        "beta 1, gamma 0.5 to 1": "beta-1-gamma-0.5-to-1", "bias -1": "bias--1", "γ 1": "γ-1",
        "a/b": "a-b", "..": "image", "CON": "_con",
    }  # fmt: skip
    assert {name: Variants.folder(name) for name in names} == names


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "an object as mine.json"),
        ({"preset": "quick"}, "no variants"),
        (variants(variant={}), "did you mean variants?"),
        (variants(preset=3), "text as preset"),
        (variants(cumulative=1), "true or false as cumulative in mine.json, got 1"),
        (variants(variants=["a"]), "an object of 1 to 100 variants"),
        (variants(variants={}), "an object of 1 to 100 variants"),
        (variants(variants={"a": 3}), "text as options in 'a' of mine.json, got 3"),
        (variants(variants={"a": "--seed 3"}), "got --seed: leave it out"),
        (variants(options="--run x"), "got --run: leave it out"),
        (variants(variants={"a": "'"}), "No closing quotation"),
        (variants(variants={"A, b": "", "a b": ""}), "got a-b of 'A, b' and of 'a b'"),
        (variants(variants={"a | b": ""}), "on one line and without |, for a table, got 'a | b'"),
        (variants(variants={"a\nb": ""}), "on one line"),
        (variants(variants={"\ud800": ""}), "on one line"),
        (variants(options="--data \0"), "text as options in mine.json"),
        (variants(options="--help"), "got --help: leave it out"),
    ],
)
def test_what_is_no_variants(value, message):
    with pytest.raises(EconError) as error:
        parse(value, "mine.json")
    assert message in str(error.value)


def test_two_variants_of_one_name(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"preset": "quick", "variants": {"a": "", "b": "", "a": "--steps 3"}}')
    with pytest.raises(EconError, match="JSON in .*mine.json, got .*'a' twice in an object"):
        read_variants(str(path))


def test_unknown_names():
    with pytest.raises(EconError, match="did you mean ladder-unique-colours"):
        read_variants("ladder-unique-colour")
    with pytest.raises(EconError, match="guides/training"):
        read_variants("no.json")


@pytest.mark.parametrize("data", ["unique-colours", "random-colours"])
def test_a_ladder_leads_from_the_paper_to_learnt_attention(data):
    ladder = read_variants(f"ladder-{data}")
    rungs = [parsed(ladder.preset, options) for options in ladder.variants.values()]
    learnt, small = presets.PRESETS[f"learnt-{data}"][1], BUILT_IN[f"ladder-{data}"]["options"]
    first = parsed(f"paper-{data}", small.split())
    assert rungs[0] == first
    assert all(a != b for a, b in zip(rungs, rungs[1:], strict=False))  # each changes something
    last = rungs[-1]
    assert last.model.expert == learnt.model.expert and last.recipe == learnt.recipe
    assert (last.objective, last.scenes) == (learnt.objective, learnt.scenes)
    assert (last.train.lr, last.train.schedule) == (learnt.train.lr, learnt.train.schedule)
    if data == "unique-colours":  # corruptions and what they need are not of the ladder
        assert (last.model, last.train, last.teaching, last.augment) == (
            learnt.model, learnt.train, learnt.teaching, learnt.augment
        )  # fmt: skip


def test_the_tuned_preset_of_the_paper_is_a_rung():
    options = read_variants("ladder-unique-colours").variants["refined regions"]
    tuned = presets.PRESETS["paper-unique-colours-tuned"][1]
    rung = parsed("paper-unique-colours", [*options, "--train.steps", str(tuned.train.steps)])
    assert config_of(rung) == tuned
