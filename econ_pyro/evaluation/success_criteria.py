"""Success criteria of training runs, and a table of runs."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from statistics import median

CRITERIA: dict[str, tuple[str, float]] = {
    "ari_fg": (">=", 0.95),
    "amodal_iou": (">=", 0.90),
    "class_accuracy": (">=", 0.95),
    "ooa": (">=", 0.90),
    "mse": ("<=", 0.002),
}
"""Bounds on scores of held-out scenes. A run is a success if it meets all of them."""
_COMPARE = {">=": operator.ge, "<=": operator.le}

Scores = Mapping[str, float | None]


def failures(scores: Scores) -> list[str]:
    """Names of the criteria that a run does not meet; missing scores do not meet theirs."""
    missed = []
    for name, (relation, bound) in CRITERIA.items():
        value = scores.get(name)
        if value is None or not _COMPARE[relation](value, bound):
            missed.append(name)
    return missed


def table(runs: Mapping[int, Scores], extra: Sequence[str] = ()) -> str:
    """Markdown table with one row per seed, the median, the range and the number of successes.

    Args:
        runs: scores of each run, by seed.
        extra: further scores to show, which have no bound.
    """
    names = [*CRITERIA, *extra]
    heads = [f"{n} {' '.join(map(str, CRITERIA[n]))}" if n in CRITERIA else n for n in names]
    lines = [f"| seed | {' | '.join(heads)} | success |", "|---" * (len(names) + 2) + "|"]
    for seed, scores in sorted(runs.items()):
        missed = failures(scores)
        cells = [_cell(scores.get(n)) for n in names]
        lines.append(f"| {seed} | {' | '.join(cells)} | {'no' if missed else 'yes'} |")
    columns = [[v for r in runs.values() if (v := r.get(n)) is not None] for n in names]
    middles = [_cell(median(c)) if c else "-" for c in columns]
    ranges = [f"{_cell(min(c))} to {_cell(max(c))}" if c else "-" for c in columns]
    good = sum(not failures(r) for r in runs.values())
    lines.append(f"| median | {' | '.join(middles)} | {good} of {len(runs)} |")
    lines.append(f"| range | {' | '.join(ranges)} | |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    decimals = 3 if abs(value) >= 0.1 else 4 if abs(value) >= 0.001 else 6
    return f"{value:.{decimals}f}"
