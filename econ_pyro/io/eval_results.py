"""Evaluation results for the Hugging Face hub: YAML files in ``.eval_results/``.

The format (https://huggingface.co/docs/hub/eval-results) is a list of entries with the fields
``dataset.id``, ``dataset.task_id``, ``value`` and, optionally, ``notes``. An entry has a single
value, so each metric on each set of scenes is a separate task, such as ``held_out_ari_fg``. The
hub shows an entry if its dataset is registered there as a benchmark with that task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from econ_pyro.errors import EconError, printable
from econ_pyro.io.model_card import FIGURES

RESULTS = ".eval_results/econ-pyro.yaml"
DATASET = "econ-pyro/synthetic-scenes"
"""Dataset to which results on generated scenes belong."""


def eval_results(
    reports: Mapping[str, Mapping[str, Any]], dataset: str = DATASET, notes: str = ""
) -> str:
    """Format the metrics of a model card as YAML.

    Args:
        reports: results of ``evaluation.as_json`` by set of scenes; metrics that are None are
            left out.
        dataset: dataset on the hub, as OWNER/NAME.
        notes: how the results were measured; may be empty.

    Raises:
        EconError: ``dataset`` is not of the form OWNER/NAME.
    """
    check_dataset(dataset)
    lines = []
    for title, report in reports.items():
        for metric, _, _ in FIGURES:
            value = report["metrics"].get(metric)
            if value is None:
                continue
            lines += [
                "- dataset:",
                f"    id: {_quoted(dataset)}",
                f"    task_id: {_quoted(_task(f'{title} {metric}'))}",
                f"  value: {value:.8f}",
            ]
            if notes:
                lines.append(f"  notes: {_quoted(notes)}")
    return "\n".join(lines) + "\n" if lines else "[]\n"


def check_dataset(dataset: str) -> None:
    """Check the name of a dataset on the hub.

    Raises:
        EconError: the name is not of the form OWNER/NAME.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", dataset, re.ASCII):
        raise EconError("a dataset on the hub, as OWNER/NAME", repr(printable(dataset)))


def _task(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _quoted(text: str) -> str:
    """Quote text as a YAML scalar; a JSON string on one line is valid YAML."""
    return json.dumps(printable(text, 1000), ensure_ascii=False)
