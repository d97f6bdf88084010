"""``metrics.jsonl``: one line of JSON per validation, with a checksum.

The checksum covers all fields except ``seconds``, which depends on the speed of the machine, so
that it is the same in all runs of a configuration.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError
from econ_pyro.files.storage import CHECKSUM, add_checksum, nan_to_null, verify_checksum
from econ_pyro.files.untrusted import read_bytes

MAX_BYTES = 256 << 20
"""Maximum size of the file: half a million validations."""
TIME = "seconds"
NUMBERS = ("loss", "valid_loss", "x", "z", "r", "lr", TIME)
"""Numeric fields of a row, besides ``step`` and the list ``usage``."""


def to_line(row: dict[str, Any]) -> str:
    """Format a row as a line, with its line end."""
    row = nan_to_null(row)
    return json.dumps({**row, CHECKSUM: add_checksum(_computed(row))[CHECKSUM]}) + "\n"


def to_text(rows: Iterable[dict[str, Any]]) -> str:
    """Format rows as the content of a file."""
    return "".join(map(to_line, rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; an empty list if there is no file.

    An incomplete last line, as of a killed process, is dropped. Other damaged lines are skipped
    with a warning, so that the run can be resumed and later lines are kept.

    Raises:
        EconError: the file cannot be read or is too large.
    """
    if not path.exists():
        return []
    lines = read_bytes(path, "a run's metrics", MAX_BYTES).split(b"\n")
    rows: list[dict[str, Any]] = []
    experts = set[int]()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                row = _row(line, f"{path}, line {number}")
                experts |= {len(row["usage"])} if row.get("usage") is not None else set()
                if len(experts) > 1:
                    experts.remove(len(row["usage"]))
                    raise EconError(f"as many experts in {path}, line {number}", "others")
                rows.append(row)
        except EconError as error:
            if number < len(lines):  # a last line without its line end is incomplete
                warnings.warn(f"skipped a line of metrics: {error}", stacklevel=3)
    return rows


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        # earlier versions wrote NaN for losses that are NaN
        row = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        raise EconError(f"a row of metrics in {where}", "a damaged line") from None
    if not isinstance(row, dict):
        raise EconError(f"a row of metrics in {where}", "other JSON")
    row = {**verify_checksum(_computed(row), where), **{n: row[n] for n in (TIME,) if n in row}}
    step = row.get("step")
    if not _is_number(step) or not isinstance(step, int) or step < 0:
        raise EconError(f"a step in {where}", "none")
    for name in NUMBERS:
        if not _is_number(row.get(name)):
            raise EconError(f"a number as {name} in {where}", "something else")
    usage = row.get("usage")
    if usage is not None and not (isinstance(usage, list) and all(map(_is_number, usage))):
        raise EconError(f"a list of numbers as usage in {where}", "something else")
    return nan_to_null(row)


def _computed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != TIME}


def _is_number(value: Any) -> bool:
    """Whether the value is None or a number that fits into a float."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (right and (isinstance(value, float) or abs(value) < 2**63))
