"""Evaluation results as the Hugging Face hub reads them: YAML files in ``.eval_results/``.

The hub's format (https://huggingface.co/docs/hub/eval-results) is a list of entries, each with
``dataset.id``, ``dataset.task_id`` and ``value``, and optional ``notes``. An entry holds a single
value, so each metric on each set of scenes is a task of its own: ``held_out_ari_fg``, say. The hub
shows entries whose dataset is registered there as a benchmark with those tasks.
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
"""Dataset of results on generated scenes."""


def eval_results(
    reports: Mapping[str, Mapping[str, Any]], dataset: str = DATASET, notes: str = ""
) -> str:
    """One YAML file with all metrics that a model card shows.

    Args:
        reports: what was measured on which scenes, as ``evaluation.as_json`` has it; metrics that
            are None are left out.
        dataset: of the scenes, as OWNER/NAME on the hub.
        notes: how the results were measured; empty for none.

    Raises:
        EconError: the dataset is not OWNER/NAME.
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
        EconError: it is not OWNER/NAME.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", dataset, re.ASCII):
        raise EconError("a dataset on the hub, as OWNER/NAME", repr(printable(dataset)))


def _task(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _quoted(text: str) -> str:
    """A text as a YAML scalar: on one line, what JSON writes means the same in YAML."""
    return json.dumps(printable(text, 1000), ensure_ascii=False)
