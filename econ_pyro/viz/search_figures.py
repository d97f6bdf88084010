"""Figures of a search: ELBO by parameter, distributions at each rung, importance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from econ_pyro.viz import panels

COLUMNS = 3  # of the figure of parameters
WORST = 5  # percent of the ELBOs that may lie below the axes: a few are far below all others


class Point(NamedTuple):
    """A configuration."""

    params: Mapping[str, Any]
    elbo: Mapping[int, float]
    """At each rung reached."""
    scores: Mapping[int, Mapping[str, float | None]]
    """At each rung reached."""


def parameters(
    points: Sequence[Point],
    names: Sequence[str],
    logs: set[str],
    rungs: Sequence[int],
    path: Path,
) -> Path:
    """Plot the ELBO at the first rung against each parameter.

    Args:
        points: configurations that have reached the first rung.
        names: parameters.
        logs: those of them with logarithmic axes.
        rungs: numbers of training steps; colours show the last one reached.
        path: path of the file.
    """
    rows = math.ceil(len(names) / COLUMNS)
    figure = Figure(figsize=(9.0, 0.6 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True)
    elbo = np.array([p.elbo[rungs[0]] for p in points])
    reached = [max(p.elbo) for p in points]
    for axes, name in zip(grid.flat, names, strict=False):
        x = _positions(axes, [p.params.get(name) for p in points], name in logs)
        for i, rung in enumerate(rungs):  # those that came furthest on top
            at = np.array([r == rung for r in reached])
            axes.scatter(x[at], elbo[at], s=14, color=_colour(i), linewidths=0, alpha=0.8)
        axes.set_xlabel(name.removeprefix("model."), fontsize=9)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    _limit(grid.flat[0], elbo)
    for row in grid:
        row[0].set_ylabel(f"ELBO at step {rungs[0]}", fontsize=9)
    for axes in grid.flat:
        _clean(axes)
    _legend(figure, rungs, "last rung reached: step ")
    return _write(figure, path)


def distributions(points: Sequence[Point], rungs: Sequence[int], path: Path) -> Path:
    """Plot how many configurations reach which ELBO and ARI-FG at each rung, and both together.

    Args:
        points: configurations that have reached the first rung.
        rungs: numbers of training steps.
        path: path of the file.
    """
    scored = any(s.get("ari_fg") is not None for p in points for s in p.scores.values())
    figure = Figure(figsize=(9.6 if scored else 4.6, 3.4), layout="constrained")
    grid = figure.subplots(1, 3 if scored else 1, squeeze=False)[0]
    pairs: list[tuple[int, np.ndarray, np.ndarray]] = []
    for i, rung in enumerate(rungs):
        there = [p for p in points if rung in p.elbo]
        elbo = np.array([p.elbo[rung] for p in there], dtype=float)
        ari = np.array([p.scores[rung].get("ari_fg") for p in there], dtype=float)
        pairs.append((i, elbo, ari))
    for i, elbo, ari in pairs:
        _cumulative(grid[0], elbo, _colour(i))
        if scored:
            _cumulative(grid[1], ari[np.isfinite(ari)], _colour(i))
            grid[2].scatter(elbo, ari, s=14, color=_colour(i), linewidths=0, alpha=0.8)
    every = np.concatenate([elbo for _, elbo, _ in pairs])
    _limit(grid[0], every, "x")
    count = "configurations up to there"
    labels = [
        ("ELBO, nats per scene", count),
        ("ARI-FG", count),
        ("ELBO, nats per scene", "ARI-FG"),
    ]
    for axes, (x, y) in zip(grid, labels, strict=False):
        axes.set_xlabel(x, fontsize=9)
        axes.set_ylabel(y, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        _clean(axes)
    if scored:
        _limit(grid[2], every, "x")
        grid[1].set_xlim(-0.05, 1.05)
        grid[2].set_ylim(-0.05, 1.05)
    _legend(figure, rungs, "step ")
    return _write(figure, path)


def importance(found: Mapping[str, float], path: Path) -> Path:
    """Plot the importance of each parameter.

    Args:
        found: importance by name, the largest first.
        path: path of the file.
    """
    figure = Figure(figsize=(6.4, 1.0 + 0.36 * len(found)), layout="constrained")
    axes = figure.subplots()
    names = list(found)[::-1]
    axes.barh(names, [found[name] for name in names], color=_colour(0), height=0.6)
    axes.set_xlabel("importance for being among the best tenth at the first rung", fontsize=9)
    _clean(axes)
    return _write(figure, path)


def _positions(axes: Axes, values: Sequence[Any], log: bool) -> np.ndarray:
    """Where values lie on the x axis: numbers where they are, others side by side."""
    rng = np.random.default_rng(0)
    known = [v for v in values if v is not None]
    real = all(isinstance(v, float) for v in known)
    if real and not log:
        return np.array([math.nan if v is None else v for v in values], dtype=float)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
    if log and numbers:
        axes.set_xscale("log")
        return np.array([math.nan if v is None else v for v in values], dtype=float)
    order = sorted(set(known), key=lambda v: v if numbers else str(v))
    if numbers:  # integers, spread so that equal ones do not hide each other
        place = {v: float(v) for v in order}
        if len(order) <= 8:
            axes.set_xticks(list(place.values()), [str(v) for v in order])
    else:
        place = {v: float(i) for i, v in enumerate(order)}
        axes.set_xticks(list(place.values()), [str(v) for v in order])
    spread = rng.uniform(-0.25, 0.25, len(values))
    return np.array([math.nan if v is None else place[v] for v in values], dtype=float) + spread


def _cumulative(axes: Axes, values: np.ndarray, colour: str) -> None:
    if len(values):
        ordered = np.sort(values)  # the first twice, so that one alone has a line as well
        axes.step(np.insert(ordered, 0, ordered[0]), np.arange(len(ordered) + 1), where="post",
                  color=colour)  # fmt: skip


def _limit(axes: Axes, values: np.ndarray, axis: str = "y") -> None:
    """Leave the few lowest values out, which may be far below all others."""
    low, high = np.percentile(values, [WORST if len(values) >= 20 else 0, 100])
    margin = 0.05 * (high - low) or 1.0
    set_limits: Callable[..., Any] = axes.set_ylim if axis == "y" else axes.set_xlim
    set_limits(low - margin, high + margin)


def _legend(figure: Figure, rungs: Sequence[int], text: str) -> None:
    axes = figure.axes[0]
    handles = [axes.scatter([], [], s=24, color=_colour(i)) for i in range(len(rungs))]
    labels = [f"{text}{rung}" for rung in rungs]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(rungs), frameon=False,
                  fontsize=9)  # fmt: skip


def _colour(i: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*panels.PALETTE[i % len(panels.PALETTE)])


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _write(figure: Figure, path: Path) -> Path:
    return panels.write_figure(
        path,
        (".png", ".pdf", ".svg"),
        lambda part: figure.savefig(part, dpi=160, format=part.suffix[1:].lower()),
    )
