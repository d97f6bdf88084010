"""Model cards of published weights (README.md)."""

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
# metric, heading, decimal places
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
    """Model card in Markdown, with metadata for the Hugging Face hub.

    Args:
        title: name of the weights.
        config: configuration of the model.
        names: names of the experts.
        reports: results of ``evaluation.as_json`` by set of scenes.
        licence: licence of the weights, as an SPDX identifier.
        dtype: type in which the weights are stored.
        trained_on: noun phrase that describes the training data; the configured scenes if not
            given.

    Raises:
        EconError: the licence is not an SPDX identifier.
    """
    check_licence(licence)
    model = config.model
    data = _plain(trained_on or _scenes(config))
    experts = "\n".join(f"- {k}: {_plain(name)}" for k, name in enumerate(names))
    return f"""---
license: {licence.lower()}
library_name: econ-pyro
pipeline_tag: image-segmentation
tags: [econ, object-centric, scene-decomposition, generative, pyro]
---

# {_plain(title)}

A scene model of competing experts (ECON,
[von Kügelgen et al., 2020](https://arxiv.org/abs/2004.12906)). It decomposes images of
{model.size}x{model.size} pixels into {model.num_slots} layers in depth order, each with the shape
and appearance of a whole object including its occluded parts, and generates new scenes. It was
trained without labels by econ-pyro {_version.__version__} on {data}.
The weights are stored as {dtype} and load as float32.

## Use

```python
import econ_pyro

econ = econ_pyro.load({_quoted(title)})  # or the path of this folder
d = econ.decompose(images)  # (B, 3, {model.size}, {model.size}) in [0, 1]
econ.sample(4, experts={list(range(len(names)))[:2]}, seed=0).image  # back to front
```

The commands of econ-pyro accept this folder in place of a run:
`econ-pyro decompose FOLDER pictures --out layers`.
{_pretrained(config)}
## Experts

{experts}

## Results

{_table(reports)}

## Limitations

Images of other sizes have to be resized. The model was trained with {model.num_slots} layers.
Decompositions of images that differ from the training data are poor. `config.json` contains the
configuration of the training.

## Licence

{licence}
"""


def check_licence(licence: str) -> None:
    """Check a licence.

    Raises:
        EconError: the licence is not an SPDX identifier.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", licence):
        raise EconError("an SPDX identifier as licence", describe(licence), f"try {LICENCE}")


def _scenes(config: Config) -> str:
    scenes = config.scenes
    return (
        f"synthetic scenes ({scenes.kind}: up to {scenes.objects} objects, "
        f"{', '.join(scenes.classes)})"
    )


def _pretrained(config: Config) -> str:
    """What else loading needs, if regions grow over the features of another network."""
    attention = getattr(getattr(config.model, "expert", None), "attention", None)
    if not (source := getattr(attention, "pretrained", "")):
        return ""
    return f"""
Loading them needs `pip install 'econ-pyro[features]'` and a pretrained network, which these files
do not contain: {_plain(source)}.
"""


def _table(reports: Mapping[str, Mapping[str, Any]] | None) -> str:
    if not reports:
        return "No results."
    heads = [head for _, head, _ in FIGURES]
    lines = [f"| scenes | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for title, report in reports.items():
        cells = [_cell(report["metrics"].get(key), places) for key, _, places in FIGURES]
        lines.append(f"| {_plain(title)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _plain(text: str) -> str:
    """Escape text for Markdown: no markup, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]|$~])", r"\\\1", html.escape(printable(text, 1000), quote=False))


def _quoted(text: str) -> str:
    """Quote text as a Python string that cannot end a Markdown code block."""
    return json.dumps(printable(text, 100), ensure_ascii=False).replace("`", "\\x60")
