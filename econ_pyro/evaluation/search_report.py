"""Results of a search (:mod:`econ_pyro.training.study`): tables, figures, what decides.

Configurations are compared by the validation ELBO with beta = gamma = 1. The losses that they are
trained with have weights of their own, and are not comparable.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from econ_pyro.evaluation.success_criteria import CRITERIA, failures
from econ_pyro.files import storage
from econ_pyro.training import study_storage
from econ_pyro.training.search_space import Space, flat
from econ_pyro.training.study import Trial
from econ_pyro.viz import search_figures

SHOWN = ("ari", "ari_fg", "visible_iou", "amodal_iou", "class_accuracy", "ooa", "mse")
"""Scores in the tables, beside the ELBO."""
KEPT = (*SHOWN, "oca", "x", "z", "r")
"""Scores that are kept of each rung."""
FEW = 20
"""Configurations below which no importance is estimated."""


def scores(
    summary: Mapping[str, float | None], row: Mapping[str, Any]
) -> tuple[float, dict[str, float]]:
    """What is kept of an evaluation.

    Args:
        summary: of :class:`~econ_pyro.evaluation.metrics.SceneMetrics`, with the terms of the ELBO
            in nats per scene.
        row: last row of the metrics of the run.

    Returns:
        The ELBO with beta = gamma = 1; and the scores that are defined, training steps and
        minutes.
    """
    terms = [summary.get(name) for name in "xzr"]
    elbo = -sum(math.nan if term is None else term for term in terms)
    kept = {name: v for name in KEPT if (v := summary.get(name)) is not None}
    return elbo, {**kept, "steps": row["step"], "minutes": (row["seconds"] or 0.0) / 60}


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Configurations that have reached a rung: those that came furthest first, then by ELBO."""
    reached = [t for t in trials if t.values and t.state != "failed"]
    return sorted(reached, key=lambda t: (-t.reached, -t.values[t.reached], t.index))


def overview(trials: Sequence[Trial], space: Space) -> str:
    """How many configurations have reached each rung, and what they are worth there."""
    states = {"waiting": 0, "running": 0, "complete": 0, "failed": 0}
    for trial in trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    lines = [
        f"{len(trials)} configurations: {sum(not t.values for t in trials)} have not reached the "
        f"first rung, {states['running']} are in training, {states['complete']} are complete, "
        f"{states['failed']} failed",
        "",
        "| step | reached it | best ELBO | median ELBO | successes |",
        "|---|---|---|---|---|",
    ]
    for rung in space.rungs:
        there = [t for t in trials if rung in t.values]
        elbos = [t.values[rung] for t in there]
        best, middle = (f"{max(elbos):.1f}", f"{median(elbos):.1f}") if elbos else ("-", "-")
        good = sum(not failures(t.scores(rung)) for t in there)
        lines.append(f"| {rung} | {len(there)} | {best} | {middle} | {good} |")
    bounds = ", ".join(f"{name} {sign} {bound:g}" for name, (sign, bound) in CRITERIA.items())
    lines += ["", f"ELBO: validation scenes, nats per scene, beta = gamma = 1. Success: {bounds}"]
    lines += [f"failed {t.index:04d}: {t.error}" for t in trials if t.state == "failed"]
    return "\n".join(lines)


def table(trials: Sequence[Trial], space: Space) -> str:
    """Markdown table with one row per configuration."""
    names, known = _names(space), [n for n in SHOWN if any(t.scores().get(n) for t in trials)]
    heads = ["configuration", "step", "ELBO", *known, *(n.split(".")[-1] for n in names)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for t in trials:
        cells = [f"{t.index:04d}", str(t.reached), f"{t.values[t.reached]:.1f}"]
        cells += [_cell(t.scores().get(name)) for name in known]
        cells += [str(t.params.get(name, "-")) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def importance(trials: Sequence[Trial], space: Space) -> dict[str, float]:
    """What decides whether a configuration is among the best at the first rung.

    Returns:
        PED-ANOVA importance of each parameter, which sum to 1; empty if there are fewer than
        :data:`FEW` configurations, or all are alike.
    """
    first = space.rungs[0]
    there = [t for t in trials if first in t.values]
    if len(there) < FEW:
        return {}
    return study_storage.importance(space, [(t.params, t.values[first]) for t in there])


def importance_table(trials: Sequence[Trial], space: Space) -> str:
    """Markdown table of :func:`importance`; empty if there is none."""
    found = importance(trials, space)
    if not found:
        return ""
    lines = ["| parameter | importance |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value:.2f} |" for name, value in found.items())])


def write(folder: Path, trials: Sequence[Trial], space: Space) -> list[Path]:
    """Write a table of all configurations and figures.

    Args:
        folder: where to.
        trials: all configurations.
        space: what was searched.

    Returns:
        The files.
    """
    names = _names(space)
    path = folder / "trials.csv"
    storage.write_text(path, _csv(trials, names))
    first = space.rungs[0]
    there = [t for t in trials if first in t.values]
    points = [
        search_figures.Point(t.params, t.values, {r: t.scores(r) for r in t.values}) for t in there
    ]
    if not points:
        return [path]
    logs = {name for name, parameter in flat(space) if getattr(parameter, "log", False)}
    written = [
        path,
        search_figures.parameters(points, names, logs, space.rungs, folder / "parameters.png"),
        search_figures.distributions(points, space.rungs, folder / "distributions.png"),
    ]
    if found := importance(trials, space):
        written.append(search_figures.importance(found, folder / "importance.png"))
    return written


def _names(space: Space) -> list[str]:
    return list(dict(flat(space)))


def _csv(trials: Sequence[Trial], names: Sequence[str]) -> str:
    """A row for each rung that a configuration has reached, and for each that has reached none."""
    heads = ["configuration", "state", "step", "elbo", *KEPT, "steps", "minutes", *names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for t in trials:
        own = [t.params.get(name, "") for name in names]
        for rung in sorted(t.values) or [0]:
            found = t.scores(rung)
            kept = [found.get(name) for name in (*KEPT, "steps", "minutes")]
            writer.writerow([t.index, t.state, rung, t.values.get(rung), *kept, *own])
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}"
