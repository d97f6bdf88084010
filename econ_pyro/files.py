"""Files that a reader never sees half of, and JSON that tells whether it is as it was written.

An object that is sealed has a further field, ``sha256``: the SHA-256, in hexadecimal, of the rest
as JSON with sorted keys and no spaces. Files without one are read all the same: those of earlier
versions, and those that people wrote or edited, who take the field out.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from econ_pyro import untrusted
from econ_pyro.errors import EconError

SEAL = "sha256"
"""Field of the checksum in what we write."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path beside ``path``, flush to disk, and rename.

    The temporary name ends as ``path`` does, for writers that go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, atomically."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any, sealed: bool = False) -> None:
    """A JSON file, atomically.

    Args:
        path: of the file.
        value: what it is to hold.
        sealed: with a checksum; ``value`` is then a dictionary.
    """
    value = without_nan(value)
    write_text(path, json.dumps(seal(value) if sealed else value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run, without its checksum.

    Raises:
        EconError: there is none, it is not JSON or no object, or it is not as it was written.
    """
    value = untrusted.read_json(
        path, f"a run's folder with {path.name}", hint="train one: make train"
    )
    if not isinstance(value, dict):
        raise EconError(f"a JSON object in {path}", "other JSON")
    return unsealed(value, str(path))


def without_nan(value: Any) -> Any:
    """The same with None in place of numbers that JSON has not: NaN and infinities."""
    if isinstance(value, dict):
        return {name: without_nan(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its checksum."""
    return {**value, SEAL: _digest(value)}


def unsealed(value: dict[str, Any], where: str) -> dict[str, Any]:
    """An object without its checksum, which has to be right if there is one.

    Raises:
        EconError: the object is not what was sealed.
    """
    rest = {name: v for name, v in value.items() if name != SEAL}
    try:
        right = SEAL not in value or value[SEAL] == _digest(rest)
    except RecursionError:  # encoding goes a little less deep than reading
        raise EconError(f"JSON in {where}", "lists or objects nested too deep") from None
    if not right:
        raise EconError(
            f"{where} as it was written",
            "another checksum: the file is damaged, or was edited",
            f'if you edited it, take the field "{SEAL}" out of it',
        )
    return rest


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
