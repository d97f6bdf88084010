"""``metrics.jsonl``: a row of numbers for each validation, a line of JSON with a checksum each.

The checksum is of what was computed, which is the same in every run of a configuration: all but
``seconds``, the machine's time.
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

MOST = 256 << 20
"""Bytes of the longest file that is read: half a million validations."""
CLOCK = "seconds"
NUMBERS = ("loss", "valid_loss", "x", "z", "r", "lr", CLOCK)
"""What is read of a row as a number, beside ``step`` and the shares ``usage``."""


def to_line(row: dict[str, Any]) -> str:
    """A row as a line, its end included."""
    row = nan_to_null(row)
    return json.dumps({**row, CHECKSUM: add_checksum(_computed(row))[CHECKSUM]}) + "\n"


def to_text(rows: Iterable[dict[str, Any]]) -> str:
    """All of a file."""
    return "".join(map(to_line, rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file; none if there is no file.

    A last line that a kill cut short is dropped. Any other line that is damaged is left out with
    a warning that names it: no later line is lost with it, and a run can go on.

    Raises:
        EconError: it cannot be read, or is too large.
    """
    if not path.exists():
        return []
    lines = read_bytes(path, "a run's metrics", MOST).split(b"\n")
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
            if number < len(lines):  # what is after the last line end was cut short by a kill
                warnings.warn(f"a line of metrics is left out: {error}", stacklevel=3)
    return rows


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        # earlier versions wrote NaN where a loss was
        row = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        raise EconError(f"a row of metrics in {where}", "a damaged line") from None
    if not isinstance(row, dict):
        raise EconError(f"a row of metrics in {where}", "other JSON")
    row = {**verify_checksum(_computed(row), where), **{n: row[n] for n in (CLOCK,) if n in row}}
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
    return {name: value for name, value in row.items() if name != CLOCK}


def _is_number(value: Any) -> bool:
    """Whether it is one, or None; not so large that it is no float."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (right and (isinstance(value, float) or abs(value) < 2**63))
