"""Search spaces: which options of a preset a random search draws, and from what ranges.

The file that holds one is read by :mod:`econ_pyro.training.space_file`. A parameter with cases is
no option: it chooses one of several sets of parameters.
"""

from __future__ import annotations

import math
import random
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = bool | int | float | str
DIGITS = 4
"""Significant digits of the numbers that are drawn."""


@dataclass(frozen=True)
class Range:
    """Uniform from ``low`` to ``high``, both included; whole numbers if both are."""

    low: float
    high: float
    log: bool = False
    """Uniform in the logarithm."""

    @property
    def whole(self) -> bool:
        """Whether the numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, rng: random.Random) -> Value:
        """One number."""
        if self.whole and not self.log:
            return rng.randint(int(self.low), int(self.high))
        low, high = self.low, self.high
        if self.whole:  # each integer has the interval around it
            low, high = low - 0.5, high + 0.5
        if self.log:
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            drawn = rng.uniform(low, high)
        if self.whole:
            return int(min(max(round(drawn), self.low), self.high))
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of several values, each with the same probability."""

    choices: tuple[Value, ...]

    def draw(self, rng: random.Random) -> Value:
        """One value."""
        return rng.choice(self.choices)


@dataclass(frozen=True)
class Cases:
    """One of several sets of parameters, each with the same probability."""

    cases: dict[str, dict[str, Parameter]]

    def draw(self, rng: random.Random) -> str:
        """Name of a case."""
        return rng.choice(list(self.cases))


Parameter = Range | Choice | Cases


@dataclass(frozen=True)
class Space:
    """A preset, and what is drawn of its options."""

    preset: str
    parameters: dict[str, Parameter]
    options: str = ""
    """Further options of ``svi_train.py``, the same for all configurations."""
    rungs: tuple[int, ...] = (300, 1200, 4800)
    """Training steps after which configurations are compared; the last is the whole training."""
    factor: int = 4
    """One of so many goes on from a rung to the next."""
    source: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What :func:`econ_pyro.training.space_file.parse` has read."""

    def draw(self, seed: int, index: int) -> dict[str, Value]:
        """The configuration of an index, which does not depend on how many there are.

        Args:
            seed: of the search.
            index: of the configuration.

        Returns:
            Values by name of parameter, names of cases included.
        """
        return dict(_draw(self.parameters, random.Random(f"{seed}, {index}")))

    def arguments(self, values: Mapping[str, Value]) -> list[str]:
        """Options of ``svi_train.py`` for values that were drawn."""
        given = shlex.split(self.options)
        for name, value in values.items():
            if isinstance(value, bool):
                part, dot, last = name.rpartition(".")
                given.append(f"--{name}" if value else f"--{part}{dot}no-{last}")
            elif name not in self._case_names():
                # a list, such as of channels, is a choice with spaces
                given += [f"--{name}", *str(value).split()]
        return given

    def corners(self) -> Iterator[dict[str, Value]]:
        """Configurations at the ends of the ranges and with each choice, to check the space."""
        choices = max([2, *(len(p.choices) for _, p in flat(self) if isinstance(p, Choice))])
        cases = max([1, *(len(p.cases) for p in self.parameters.values() if isinstance(p, Cases))])
        for case in range(cases):
            for end in range(choices):
                yield dict(_cornered(self.parameters, end, case))

    def _case_names(self) -> set[str]:
        return {name for name, p in self.parameters.items() if isinstance(p, Cases)}


def flat(space: Space) -> Iterator[tuple[str, Parameter]]:
    """All parameters, those of cases included; a name occurs once for each case that has it."""
    for name, parameter in space.parameters.items():
        yield name, parameter
        if isinstance(parameter, Cases):
            for inner in parameter.cases.values():
                yield from inner.items()


def _draw(parameters: Mapping[str, Parameter], rng: random.Random) -> Iterator[tuple[str, Value]]:
    for name, parameter in parameters.items():
        value = parameter.draw(rng)
        yield name, value
        if isinstance(parameter, Cases):
            yield from _draw(parameter.cases[str(value)], rng)


def _cornered(
    parameters: Mapping[str, Parameter], end: int, case: int
) -> Iterator[tuple[str, Value]]:
    for name, parameter in parameters.items():
        if isinstance(parameter, Cases):
            chosen = list(parameter.cases)[case % len(parameter.cases)]
            yield name, chosen
            yield from _cornered(parameter.cases[chosen], end, case)
        elif isinstance(parameter, Choice):
            yield name, parameter.choices[end % len(parameter.choices)]
        else:
            yield name, (parameter.low, parameter.high)[end % 2]


def _architecture(
    latents: tuple[int, int], layers: tuple[int, int], features: int
) -> dict[str, Any]:
    """The ranges of a table of appendix C.4; its numbers of experts and of layers are fixed."""
    return {
        "model.expert.latents.dim": {"low": latents[0], "high": latents[1]},
        "model.expert.layers": {"low": layers[0], "high": layers[1]},
        "model.expert.features": {"low": features, "high": 32},
    }


SPACES: dict[str, dict[str, Any]] = {
    "paper-unique-colours": {
        "preset": "paper-unique-colours",
        "parameters": {
            **_architecture((2, 3), (2, 4), 4),
            # the best that the paper names, beta 9.54 and gamma 0.52, fits the ranges swapped only
            "reading": {
                "cases": {
                    "table": {
                        "objective.beta": {"low": 0.5, "high": 2.0},
                        "objective.gamma": {"low": 0.1, "high": 10.0},
                    },
                    "swapped": {
                        "objective.beta": {"low": 0.1, "high": 10.0},
                        "objective.gamma": {"low": 0.5, "high": 2.0},
                    },
                }
            },
        },
    },
    "paper-random-colours": {
        "preset": "paper-random-colours",
        "options": "--objective.beta 1",
        "parameters": {
            **_architecture((4, 5), (3, 4), 16),
            "objective.gamma": {"low": 0.5, "high": 5.0},
        },
    },
}
"""The spaces of appendix C.4."""
