"""The model card of published weights: a README.md with what a reader needs to use them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from econ_pyro import _version
from econ_pyro.config import Config
from econ_pyro.errors import EconError, describe, printable

LICENCE = "apache-2.0"
# the measure, its heading, decimals
FIGURES = (
    ("ari_fg", "ARI-FG", 3),
    ("visible_iou", "visible IoU", 2),
    ("amodal_iou", "amodal IoU", 2),
    ("oca", "counting", 2),
    ("ooa", "depth order", 2),
    ("class_accuracy", "class accuracy of objects", 3),
    ("mse", "MSE", 6),
)


def model_card(
    title: str,
    config: Config,
    names: Sequence[str],
    reports: Mapping[str, Mapping[str, Any]] | None = None,
    licence: str = LICENCE,
    dtype: str = "float32",
    trained_on: str = "",
) -> str:
    """The card, in Markdown, with the head that the Hugging Face hub reads.

    Args:
        title: name of the weights.
        config: of the model.
        names: of the experts.
        reports: what was measured on which scenes, as ``evaluation.as_json`` has it.
        licence: of the weights, as an SPDX identifier.
        dtype: type in which the weights are stored.
        trained_on: what the training saw, as a phrase; the configured scenes if not given.

    Raises:
        EconError: the licence is no identifier.
    """
    check_licence(licence)
    model = config.model
    seen = _plain(trained_on or _scenes(config))
    experts = "\n".join(f"- {k}: {_plain(name)}" for k, name in enumerate(names))
    return f"""---
license: {licence.lower()}
library_name: econ-pyro
pipeline_tag: image-segmentation
tags: [econ, object-centric, scene-decomposition, generative, pyro]
---

# {_plain(title)}

A scene model of competing experts (ECON,
[von Kügelgen et al., 2020](https://arxiv.org/abs/2004.12906)): it takes a picture of
{model.size}x{model.size} pixels apart into {model.num_slots} layers in depth order, each a whole
object with what is hidden of it, and composes new scenes. Trained without labels by econ-pyro
{_version.__version__} on {seen}. The weights are stored as {dtype} and
load as float32.

## Use

```python
import econ_pyro

econ = econ_pyro.load({_quoted(title)})  # or the path of this folder
d = econ.decompose(images)  # (B, 3, {model.size}, {model.size}) in [0, 1]
econ.sample(4, experts={list(range(len(names)))[:2]}, seed=0).image  # back to front
```

The scripts take this folder in place of a run:
`python scripts/decompose.py FOLDER pictures --out layers`.

## Experts

{experts}

## Figures

{_table(reports)}

## Limits

Pictures of other sizes have to be resized; {model.num_slots} layers were trained; pictures unlike
those of training come apart badly. `config.json` has every setting of the training.

## Licence

{licence}
"""


def check_licence(licence: str) -> None:
    """Check that a licence can stand in the head of a card.

    Raises:
        EconError: it is no identifier.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", licence):
        raise EconError("an SPDX identifier as licence", describe(licence), f"try {LICENCE}")


def _scenes(config: Config) -> str:
    scenes = config.scenes
    return (
        f"synthetic scenes ({scenes.kind}: up to {scenes.objects} objects, "
        f"{', '.join(scenes.classes)})"
    )


def _table(reports: Mapping[str, Mapping[str, Any]] | None) -> str:
    if not reports:
        return "None were measured."
    heads = [head for _, head, _ in FIGURES]
    lines = [f"| scenes | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for title, report in reports.items():
        cells = [_cell(report["metrics"].get(key), places) for key, _, places in FIGURES]
        lines.append(f"| {_plain(title)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is: no markup, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]|$~])", r"\\\1", html.escape(printable(text, 1000), quote=False))


def _quoted(text: str) -> str:
    """A text as Python writes it, in a block of code that it cannot end."""
    return json.dumps(printable(text, 100), ensure_ascii=False).replace("`", "\\x60")
