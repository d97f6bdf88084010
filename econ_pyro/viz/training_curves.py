r"""Training curves: loss and its terms, learning rate, and the experts' shares of wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from econ_pyro.errors import EconError
from econ_pyro.viz import panels

# name in the metrics, label in the legend, colour, line width, line style
LINES = (
    ("loss", "loss", "#202020", 2.0, "-"),
    ("valid_loss", "validation loss", "#202020", 1.2, "--"),
    ("x", r"$L_x$ appearance", "#0072B2", 1.2, "-"),
    ("z", r"$L_z$ latent", "#E69F00", 1.2, "-"),
    ("r", r"$L_r$ region", "#009E73", 1.2, "-"),
)


def training_curves(
    rows: Sequence[Mapping[str, Any]], path: str | Path, names: Sequence[str] = ()
) -> Path:
    """Plot loss, its terms, learning rate and the experts' shares of wins.

    Args:
        rows: one row per logged step, each with ``step`` and any of ``loss``, ``valid_loss``, the
            terms ``x``, ``z`` and ``r`` in nats per scene, ``lr``, and ``usage``, the shares of
            wins of the K experts. Missing values and None are omitted.
        path: path of the file: PNG, PDF or SVG.
        names: names of the experts.

    Raises:
        EconError: there are no rows.
    """
    if not rows:
        raise EconError("at least one row of training metrics", "none", "train first, then plot")
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    loss, rate, usage = figure.subplots(3, sharex=True, height_ratios=(3, 1, 2))
    _losses(loss, rows)
    _rate(rate, rows)
    _usage(usage, rows, names)
    for axes in (loss, rate, usage):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.margins(x=0)
    usage.set_xlabel("training step")
    return panels.write_figure(
        path,
        (".png", ".pdf", ".svg"),
        lambda part: figure.savefig(part, dpi=160, format=part.suffix[1:].lower()),
    )


def _losses(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    lowest = np.inf
    for key, label, colour, width, style in LINES:
        step, value = _column(rows, key)
        if len(step):
            axes.plot(step, value, style, color=colour, linewidth=width, label=label)
            lowest = min(lowest, value.min())
    if 0 < lowest < np.inf:
        axes.set_yscale("log")
    axes.set_ylabel("nats per scene")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    if axes.lines:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))


def _rate(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    step, value = _column(rows, "lr")
    if len(step):
        axes.step(step, value, where="post", color="#202020", linewidth=1.4)
        if value.min() > 0:
            axes.set_yscale("log")
            axes.set_ylim(value.min() / 1.5, value.max() * 1.5)
        rates = np.unique(value)
        if len(rates) <= 7:  # piecewise constant: label each rate
            axes.set_yticks(rates, [f"{v:.1e}" for v in rates])
            axes.set_yticks([], minor=True)
    axes.set_ylabel("learning rate")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)


def _usage(axes: Axes, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    step, share = _column(rows, "usage")
    if len(step):
        experts = share.shape[1]
        labels = [*names, *(f"expert {k}" for k in range(len(names), experts))]
        labels = [_escape(label) for label in labels[:experts]]
        colours = ["#{:02x}{:02x}{:02x}".format(*panels.expert_colour(k)) for k in range(experts)]
        axes.stackplot(
            step, share.T, labels=labels, colors=colours, edgecolor="white", linewidth=0.6
        )
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1],  # in the order of the stack, top to bottom
            labels[::-1],
            frameon=False,
            fontsize=9,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of wins")


def _escape(text: str) -> str:
    """Escape a label for Matplotlib, which parses ``$`` and omits labels that begin with ``_``."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    step, value = zip(*found, strict=True) if found else ((), ())
    return np.asarray(step, dtype=float), np.asarray(value, dtype=float)
