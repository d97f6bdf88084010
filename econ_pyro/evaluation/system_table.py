"""Tables of several systems with several runs each: median, range and number of successes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, median_low
from typing import Any

from econ_pyro.evaluation.success_criteria import CRITERIA

Value = float | str | None
"""A score; a text says why there is none, None is not defined."""
Scores = Mapping[str, Value]

NOT_DEFINED = "not defined"
MISSING = "-"
SUCCESS = "ari_fg"
"""The score whose bound (:data:`~econ_pyro.evaluation.success_criteria.CRITERIA`) a run has to
keep to count as a success here: scores of classes and of depth order are not defined for all
systems."""


@dataclass(frozen=True)
class Row:
    """Runs of one system with one budget, or a reference without runs."""

    system: str
    budget: str = ""
    """Name of the budget; empty for a reference."""
    runs: Mapping[int, Scores] = field(default_factory=dict)
    """Scores by seed; of a reference, under 0."""
    planned: int = 0
    """Number of runs that were asked for; those that failed are not in ``runs``."""

    def as_json(self) -> dict[str, Any]:
        """The row, as values for JSON."""
        runs = {str(seed): dict(scores) for seed, scores in self.runs.items()}
        return {"system": self.system, "budget": self.budget, "of": self.planned, "runs": runs}


def reference(name: str, scores: Scores) -> Row:
    """A row of something that is not trained."""
    return Row(name, runs={0: scores})


def bound() -> str:
    """The bound of a success, as text."""
    return " ".join(map(str, (SUCCESS.upper().replace("_", "-"), *CRITERIA[SUCCESS])))


def successes(row: Row) -> str:
    """Number of runs that keep the bound of :data:`SUCCESS`, of the number asked for."""
    if not row.planned:
        return MISSING
    least, kept = CRITERIA[SUCCESS][1], 0
    for scores in row.runs.values():
        value = scores.get(SUCCESS)
        kept += isinstance(value, int | float) and value >= least
    return f"{kept} of {row.planned}"


def markdown(rows: Sequence[Row], columns: Mapping[str, str], counted: bool = False) -> str:
    """A table with one line per row.

    Args:
        rows: the systems.
        columns: titles by the name of the score.
        counted: whether to add the number of successes.
    """
    heads = ["system", "budget", *([bound()] if counted else []), *columns.values()]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row.system, row.budget or MISSING, *([successes(row)] if counted else [])]
        cells += [cell([scores.get(name) for scores in row.runs.values()]) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: Sequence[Value]) -> str:
    """Median and range of the values of several runs; the texts, where there are no values.

    Args:
        values: one per run.
    """
    numbers = [v for v in values if isinstance(v, int | float)]
    if numbers:
        middle = number(median_low(numbers) if isinstance(numbers[0], int) else median(numbers))
        low, high = number(min(numbers)), number(max(numbers))
        return middle if len(numbers) == 1 else f"{middle} ({low} to {high})"
    texts = list(dict.fromkeys(v for v in values if isinstance(v, str)))
    if texts:
        return ", ".join(texts)
    return NOT_DEFINED if values else MISSING


def number(value: float) -> str:
    """A number with three or four significant digits; a whole number as it is."""
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
    decimals = 3 if abs(value) >= 0.1 else 4 if abs(value) >= 0.001 else 6
    return f"{value:.{decimals}f}"
