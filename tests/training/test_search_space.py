"""Search spaces: what is drawn, what their files may say, and the paper's table."""

import math
import random
from collections import Counter

import pytest

from econ_pyro.errors import EconError
from econ_pyro.training import space_file
from econ_pyro.training.search_space import SPACES, Cases, Choice, Range, flat


def space(**fields):
    """A space of one parameter, with other fields."""
    value = {"preset": "quick", "parameters": {"train.lr": {"low": 0.1, "high": 0.2}}}
    return value | fields


def of(**parameters):
    """A space with these parameters, ``__`` for the dots."""
    named = {name.replace("__", "."): value for name, value in parameters.items()}
    return space_file.parse(space(parameters=named), "space.json")


def drawn(parameter, n=4000):
    rng = random.Random(0)
    return [parameter.draw(rng) for _ in range(n)]


def test_whole_numbers_are_equally_likely_with_both_ends():
    counts = Counter(drawn(Range(2, 4)))
    assert set(counts) == {2, 3, 4}
    # standard deviation of a count: sqrt(4000 / 3 * 2 / 3), about 30
    assert all(abs(n - 4000 / 3) < 150 for n in counts.values())


def test_numbers_are_uniform_or_uniform_in_the_logarithm():
    for log, middle in ((False, 5.05), (True, 1.0)):
        values = sorted(drawn(Range(0.1, 10.0, log)))
        assert 0.1 <= values[0] < values[-1] <= 10.0
        below = sum(v < middle for v in values) / len(values)
        assert abs(below - 0.5) < 0.04
        assert all(float(f"{v:.4g}") == v for v in values)
    counts = Counter(drawn(Range(1, 8, True)))
    expected = {k: math.log((k + 0.5) / (k - 0.5)) / math.log(8.5 / 0.5) for k in range(1, 9)}
    assert all(abs(counts[k] / 4000 - p) < 0.03 for k, p in expected.items())


def test_a_configuration_depends_on_seed_and_index_alone():
    paper = space_file.read_space("paper-unique-colours")
    first = [paper.draw(0, i) for i in range(20)]
    assert first == [paper.draw(0, i) for i in range(20)]
    assert len({repr(values) for values in first}) == 20
    assert first != [paper.draw(1, i) for i in range(20)]
    # pinned, as a study that was planned on one machine may grow on another
    assert paper.draw(0, 0)["objective.gamma"] == 6.9


def test_the_papers_spaces_have_the_ranges_of_its_table():
    unique = space_file.read_space("paper-unique-colours")
    named = {name.split(".")[-1]: p for name, p in unique.parameters.items()}
    assert (named["dim"], named["layers"]) == (Range(2, 3), Range(2, 4))
    assert named["features"] == Range(4, 32)
    cases = named["reading"].cases
    table, swapped = (
        {name.split(".")[-1]: (p.low, p.high) for name, p in cases[case].items()}
        for case in ("table", "swapped")
    )
    assert table == {"beta": (0.5, 2.0), "gamma": (0.1, 10.0)}
    assert swapped == {"beta": table["gamma"], "gamma": table["beta"]}

    def holds(ranges, **values):
        return all(ranges[n][0] <= v <= ranges[n][1] for n, v in values.items())

    best = {"beta": 9.54, "gamma": 0.52}  # as the paper has it
    assert holds(swapped, **best) and not holds(table, **best)
    readings = Counter(unique.draw(0, i)["reading"] for i in range(512))
    assert abs(readings["table"] - 256) < 50
    other = space_file.read_space("paper-random-colours")
    assert [(p.low, p.high) for p in other.parameters.values()] == [
        (4, 5), (3, 4), (16, 32), (0.5, 5.0)
    ]  # fmt: skip
    assert all(s.rungs == (300, 1200, 4800) for s in (unique, other))
    assert "--objective.beta 1" in other.options


def test_arguments_are_those_of_a_command_line():
    found = of(
        train__lr={"low": 1e-3, "high": 1e-2, "log": True},
        recipe__whitening={"choices": [True, False]},
        channels={"choices": [[4, 8], [8, 8]]},
        reading={"cases": {"a": {"x": {"low": 0, "high": 1}}, "b": {}}},
    )
    found = space_file.with_options(found, '--data "my pictures"')
    values = {"train.lr": 0.002, "recipe.whitening": False, "channels": "4 8", "reading": "b"}
    assert found.arguments(values) == [
        "--data", "my pictures", "--train.lr", "0.002", "--recipe.no-whitening",
        "--channels", "4", "8",
    ]  # fmt: skip
    assert found.arguments({"gt-masks": True, "x": 1})[2:] == ["--gt-masks", "--x", "1"]


def test_corners_have_both_ends_each_choice_and_each_case():
    found = of(
        lr={"low": 0.1, "high": 0.2},
        kind={"choices": ["a", "b", "c"]},
        reading={"cases": {"s": {"x": {"low": 0, "high": 1}}, "t": {"y": {"low": 2, "high": 3}}}},
    )
    corners = list(found.corners())
    assert {c["kind"] for c in corners} == {"a", "b", "c"}
    assert {c["lr"] for c in corners} == {0.1, 0.2}
    assert {c.get("x") for c in corners} == {0, 1, None}
    assert {c.get("y") for c in corners} == {2, 3, None}
    assert [type(p) for _, p in flat(found)] == [Range, Choice, Cases, Range, Range]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "an object as space.json"),
        ({"preset": "quick"}, "no parameters"),
        (space(extra=1), "got 'extra'"),
        (space(ruungs=[3]), "did you mean rungs?"),
        (space(preset=3), "text as preset"),
        (space(options='--data "a'), "No closing quotation"),
        (space(options="--resume"), "that are not set by this command itself, got --resume"),
        (space(options="--steps=3"), "got --steps=3"),
        (space(parameters={}), "1 to 100 parameters"),
        (space(parameters=3), "an object as parameters"),
        (space(parameters={"Train lr": {"low": 0, "high": 1}}), "names of options"),
        (space(parameters={"a": {"low": 1, "high": 1}}), "numbers low < high as a"),
        (space(parameters={"a": {"low": "1", "high": 2}}), "numbers low < high as a"),
        (space(parameters={"a": {"low": False, "high": True}}), "numbers low < high as a"),
        (space(parameters={"a": {"low": 0, "high": 1, "log": True}}), "above 0 for log"),
        (space(parameters={"a": {"low": 0}}), "no high"),
        (space(parameters={"a": {"choices": [1]}}), "two different values as a"),
        (space(parameters={"a": {"choices": [1, 1]}}), "two different values as a"),
        (space(parameters={"a": {"choices": [1, "b"]}}), "values of one type as a"),
        (space(parameters={"a": {"choices": [{}, {}, []]}}), "two different values as a"),
        (space(parameters={"a": {"cases": {"b": {}}}}), "at least two cases as a"),
        (
            space(parameters={"a": {"cases": {"b": {"c": {"cases": {}}}, "d": {}}}}),
            "alone within a case",
        ),
        (space(parameters={"model.sigma_x": {"low": 0.1, "high": 1}}), "got model.sigma-x"),
        (space(parameters={"scenes.objects": {"low": 1, "high": 2}}), "got scenes.objects"),
        (space(rungs=[]), "increasing numbers"),
        (space(rungs=[300, 200]), "increasing numbers"),
        (space(rungs=[0, 200]), "increasing numbers"),
        (space(rungs="300"), "increasing numbers"),
        (space(factor=1), "a factor of at least 2"),
        (
            space(parameters={"a": {"cases": {
                "b": {"x": {"low": 0, "high": 1}}, "c": {"x": {"low": 0.0, "high": 1.0}},
            }}}),
            "one kind of range",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_a_space_are_explained(value, message):
    with pytest.raises(EconError) as error:
        space_file.parse(value, "space.json")
    assert message in str(error.value)


def test_unknown_spaces(tmp_path):
    with pytest.raises(EconError, match="did you mean paper-unique-colours"):
        space_file.read_space("paper-unique-colors")
    with pytest.raises(EconError, match="does not exist"):
        space_file.read_space(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(EconError, match="JSON in .*bad.json"):
        space_file.read_space(str(tmp_path / "bad.json"))
    assert all(space_file.read_space(name).preset == name for name in SPACES)
