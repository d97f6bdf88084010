"""Files of search spaces.

A space is a JSON file::

    {"preset": "quick",
     "options": "--data pictures",
     "rungs": [300, 1200, 4800],
     "factor": 4,
     "parameters": {
       "model.expert.features": {"low": 8, "high": 32},
       "objective.beta": {"low": 0.5, "high": 2.0, "log": true},
       "recipe.whitening": {"choices": [true, false]},
       "colours": {"cases": {
         "few": {"train.lr": {"low": 1e-3, "high": 2e-3}},
         "many": {"train.lr": {"low": 1e-4, "high": 1e-3}}}}}}

Names of parameters are options of ``svi_train.py`` without the dashes. A parameter with ``cases``
is no option: it chooses one of several sets of parameters, each with the same probability.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from econ_pyro import limits
from econ_pyro.errors import EconError, describe, did_you_mean
from econ_pyro.files import untrusted
from econ_pyro.training import child_runs
from econ_pyro.training.search_space import (
    SPACES,
    Cases,
    Choice,
    Parameter,
    Range,
    Space,
    Value,
    flat,
)

MAX_PARAMETERS = 100
FIXED = ("scenes.", "model.size", "model.sigma-x", "train.steps", "train.valid-scenes", "seed")
"""Options that change the data, the likelihood or the budget: ELBOs would not be comparable."""
OWN = ("--steps", "--train.steps", "--minutes", "--train.minutes", "--device")
"""Further options that the search sets itself."""


def read_space(name: str) -> Space:
    """A space by its name in :data:`SPACES` or by the path of its file.

    Raises:
        EconError: there is none, or it is no space.
    """
    if name in SPACES:
        return parse(SPACES[name], name)
    if not name.endswith(".json"):
        hint = did_you_mean(name, SPACES) or "write one as docs/guides/search.md explains"
        raise EconError(f"a .json file or one of {', '.join(SPACES)}, as a space", name, hint)
    path = Path(name)
    return parse(
        untrusted.read_json(path, "a search space", hint="see docs/guides/search.md"), name
    )


def parse(value: Any, where: str) -> Space:
    """A space from the content of its file.

    Args:
        value: the content.
        where: name of the file, for error messages.

    Raises:
        EconError: a field is missing, unknown or of another kind.
    """
    preset = preset_of(value, where, {"parameters"}, {"options", "rungs", "factor"})
    options = value.get("options", "")
    child_runs.words_of(options, where, (*child_runs.OWN, *OWN))
    parameters = _parameters(value["parameters"], where, inner=False)
    if not 1 <= len(parameters) <= MAX_PARAMETERS:
        raise EconError(f"1 to {MAX_PARAMETERS} parameters in {where}", str(len(parameters)))
    space = Space(preset, parameters, options, source=value)
    _check_alike(space, where)
    return with_rungs(space, value.get("rungs", space.rungs), value.get("factor", space.factor))


def with_rungs(space: Space, rungs: Any, factor: Any) -> Space:
    """The space with other rungs.

    Raises:
        EconError: the rungs are not increasing numbers of steps, or the factor is below 2.
    """
    whole = isinstance(rungs, list | tuple) and all(type(r) is int for r in rungs)
    if not whole or not rungs or list(rungs) != sorted({*rungs}) or rungs[0] < 1:
        raise EconError("increasing numbers of training steps as rungs", describe(rungs))
    if rungs[-1] > limits.MAX_COUNT:
        raise EconError(f"rungs up to {limits.MAX_COUNT:,}", describe(rungs[-1]))
    if type(factor) is not int or factor < 2:
        raise EconError("a factor of at least 2", describe(factor))
    source = {**space.source, "rungs": list(rungs), "factor": factor}
    return Space(space.preset, space.parameters, space.options, tuple(rungs), factor, source)


def with_options(space: Space, options: str) -> Space:
    """The space with further options.

    Raises:
        EconError: the search sets one of them itself.
    """
    return parse({**space.source, "options": f"{space.options} {options}".strip()}, "--options")


def _parameters(value: Any, where: str, inner: bool) -> dict[str, Parameter]:
    if not isinstance(value, dict):
        raise EconError(f"an object as parameters in {where}", describe(value))
    return {_name(n, p, where): _parameter(p, f"{n} in {where}", inner) for n, p in value.items()}


def _name(name: str, value: Any, where: str) -> str:
    name = name.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9.-]*", name):
        raise EconError(f"names of options, such as train.lr, in {where}", describe(name))
    cases = isinstance(value, dict) and "cases" in value
    if not cases and any(name == f or (f[-1] == "." and name.startswith(f)) for f in FIXED):
        raise EconError(
            f"parameters in {where} that leave data, likelihood and budget alone",
            name,
            "make it one of the options: ELBOs are not comparable otherwise",
        )
    return name


def _parameter(value: Any, where: str, inner: bool) -> Parameter:
    if isinstance(value, dict) and "cases" in value:
        if inner:
            raise EconError(f"ranges and choices alone within a case, for {where}", "cases")
        _check_object(value, where, {"cases"}, set())
        cases = value["cases"]
        if not isinstance(cases, dict) or len(cases) < 2:
            raise EconError(f"at least two cases as {where}", describe(cases))
        return Cases({name: _parameters(p, where, inner=True) for name, p in cases.items()})
    if isinstance(value, dict) and "choices" in value:
        _check_object(value, where, {"choices"}, set())
        return Choice(_choices(value["choices"], where))
    _check_object(value, where, {"low", "high"}, {"log"})
    low, high, log = value["low"], value["high"], value.get("log", False)
    numbers = all(type(v) in (int, float) and abs(v) < 1e15 for v in (low, high))
    if not numbers or not low < high or type(log) is not bool:
        raise EconError(f"numbers low < high as {where}", describe(value))
    if log and low <= 0:
        raise EconError(f"a low above 0 for log in {where}", describe(low))
    return Range(low, high, log)


def _choices(value: Any, where: str) -> tuple[Value, ...]:
    expected = f"a list of at least two different values as {where}"
    if not isinstance(value, list):
        raise EconError(expected, describe(value))
    found = [" ".join(map(str, v)) if isinstance(v, list) else v for v in value]
    known = all(type(v) in (bool, int, float, str) and v != "" for v in found)
    if not known or len(set(map(repr, found))) < max(2, len(found)):
        raise EconError(expected, describe(value))
    if len(set(map(type, found))) > 1:
        raise EconError(f"values of one type as {where}", describe(value))
    return tuple(found)


def _check_alike(space: Space, where: str) -> None:
    """Check that a name stands for one kind of parameter in all cases."""
    seen: dict[str, Parameter] = {}
    for name, parameter in flat(space):
        first = seen.setdefault(name, parameter)
        alike = type(first) is type(parameter) and not isinstance(first, Cases)
        if isinstance(first, Range) and isinstance(parameter, Range):
            alike = (first.whole, first.log) == (parameter.whole, parameter.log)
        elif isinstance(first, Choice):
            alike = first == parameter
        if first is not parameter and not alike:
            raise EconError(f"one kind of range or the same choices for {name} in {where}", "two")


def preset_of(value: Any, where: str, needed: set[str], optional: set[str]) -> str:
    """The preset of an object that has one, and these fields beside it.

    Raises:
        EconError: as :func:`_check_object`, or the preset is no text.
    """
    _check_object(value, where, {"preset", *needed}, optional)
    preset = value["preset"]
    if not isinstance(preset, str):
        raise EconError(f"text as preset in {where}", describe(preset))
    return preset


def _check_object(value: Any, where: str, needed: set[str], optional: set[str]) -> None:
    """Check that a value is an object with these fields.

    Raises:
        EconError: it is none, lacks a field or has an unknown one.
    """
    if not isinstance(value, dict):
        raise EconError(f"an object as {where}", describe(value))
    if missing := sorted(needed - set(value)):
        raise EconError(f"{', '.join(sorted(needed))} in {where}", f"no {missing[0]}")
    if unknown := sorted(set(value) - needed - optional):
        known = needed | optional
        hint = did_you_mean(unknown[0], known)
        raise EconError(f"{', '.join(sorted(known))} in {where}", describe(unknown[0]), hint)
