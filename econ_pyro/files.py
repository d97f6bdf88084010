"""Files that a reader never sees half of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError


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


def write_json(path: Path, value: Any) -> None:
    """A JSON file, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda p: p.write_text(text))


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        EconError: there is none, or it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise EconError(
            f"a run's folder with {path.name}", str(path.parent), "train one: make train"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EconError(f"JSON in {path}", f"a damaged file ({error})") from None
