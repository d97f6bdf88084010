"""Files that a reader never sees half of, and JSON that tells whether it is as it was written.

What it means when a file cannot be written is here, too. An object that is sealed has a further
field, ``sha256``: the SHA-256, in hexadecimal, of the rest as JSON with sorted keys and no spaces.
Files without one are read all the same: those of earlier versions, and those that people wrote or
edited, who take the field out.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError
from econ_pyro.files import untrusted
from econ_pyro.files.leftovers import unfinished_file

_BLOCK = 4096  # bytes
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Of errors that room would mend."""

SEAL = "sha256"
"""Field of the checksum in what we write."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path beside ``path``, flush to disk, and rename.

    The temporary name ends as ``path`` does, for writers that go by it.

    Raises:
        OSError: it could not be written, in whatever way ``write``'s library says so; what was
            there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished_file(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # some libraries make files that nobody else may read
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except Exception as error:
        if (failed := failed_write(error, path)) is None:
            raise
        raise failed from error
    finally:
        with suppress(OSError):  # a disk that failed to write may fail at this, too
            temporary.unlink(missing_ok=True)


def failed_write(error: Exception, path: Path | str | None = None) -> OSError | None:
    """The :class:`OSError` behind what a library raises when it cannot write a file.

    Args:
        error: torch's writer of archives says RuntimeError, safetensors' an error of its own,
            Pillow's encoders and NumPy OSError without a reason.
        path: of the file that was to be written.

    Returns:
        With an ``errno``, and ``path`` as its file where it had none; None for another error.
    """
    told = re.search(r"\(os error (\d+)\)", str(error))  # Rust's way
    if isinstance(error, OSError) and error.errno:
        code = error.errno
    elif told:
        code = int(told[1])
    elif isinstance(error, OSError) or _of_torch(error):
        code = errno.ENOSPC  # a write was cut short, and that is why files are
    else:
        return None
    name = (
        str(path) if path is not None else name_in(error) if isinstance(error, OSError) else None
    )
    return OSError(code, os.strerror(code), name)


def name_in(error: OSError) -> str | None:
    """The file that an error names, if it names one."""
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None


def write_failed(error: OSError, hint: str = "") -> EconError:
    """What a user reads when the system refuses a file.

    Args:
        error: with an ``errno``.
        hint: what to do once it does not.
    """
    reason = error.strerror or "an error without a name"
    name = name_in(error)
    if error.errno in NO_ROOM:
        then = f"then {hint}" if hint else "then try again"
        where = "" if name is None else f" {name}"
        return EconError(f"room to write{where}", reason, f"free some space, {then}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return EconError(f"permission to use {name or 'a file'}", reason, hint)
    what = reason if name is None else f"{name} ({reason})"
    return EconError("a usable path" if name else "files that can be used", what, hint)


def _of_torch(error: Exception) -> bool:
    """Whether torch's writer of archives could not write."""
    said = ("PytorchStreamWriter", "inline_container", "unexpected pos")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before computing what is to be in it.

    Raises:
        EconError: it is a folder.
        OSError: there may be nothing written beside it, or there is no room.
    """
    if path.is_dir():
        raise EconError("a file to write to", f"the folder {path}", "name a file")
    made = [above for above in path.parents if not above.exists()]
    temporary = unfinished_file(path)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            # not os.access: it does not know of a full disk, nor root of one for reading alone
            temporary.write_bytes(bytes(_BLOCK))
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise failed_write(error, path) or error from error
    finally:
        for above in made:
            with suppress(OSError):
                above.rmdir()


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
