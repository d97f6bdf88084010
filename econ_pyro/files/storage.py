"""Atomic writing, JSON files with checksums, and errors of the file system.

The checksum is the field ``sha256`` of a JSON object: the hexadecimal SHA-256 of all other fields,
as JSON with sorted keys and no spaces. It is optional when reading, so that files of earlier
versions are valid and users can remove it from files that they edit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError, command
from econ_pyro.files import untrusted
from econ_pyro.files.temporary_paths import temporary_file

_BLOCK = 4096  # bytes
DISK_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, quota or file size limit."""

CHECKSUM = "sha256"
"""Name of the checksum field."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path, flush the file to disk, and rename it to ``path``.

    The temporary path has the suffix of ``path``, as some writers depend on it.

    Raises:
        OSError: writing failed, whatever exception ``write`` raised for that. The previous file
            stays intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_file(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # some libraries remove read permissions of group and others
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except Exception as error:
        if (failed := to_os_error(error, path)) is None:
            raise
        raise failed from error
    finally:
        with suppress(OSError):  # a failing disk may fail again
            temporary.unlink(missing_ok=True)


def to_os_error(error: Exception, path: Path | str | None = None) -> OSError | None:
    """Convert a library's exception for a failed write to an :class:`OSError`.

    Args:
        error: the exception. torch raises RuntimeError, safetensors an exception of its own,
            and Pillow and NumPy raise OSError without an ``errno``.
        path: path of the file; default: the path of ``error``.

    Returns:
        An error with ``errno`` and path; None if ``error`` is not a failed write.
    """
    rust_code = re.search(r"\(os error (\d+)\)", str(error))  # message of Rust libraries
    if isinstance(error, OSError) and error.errno:
        code = error.errno
    elif rust_code:
        code = int(rust_code[1])
    elif isinstance(error, OSError) or _is_torch_write_error(error):
        code = errno.ENOSPC  # incomplete writes are due to full disks
    else:
        return None
    if path is not None:
        name: str | None = str(path)
    else:
        name = path_of_error(error) if isinstance(error, OSError) else None
    return OSError(code, os.strerror(code), name)


def path_of_error(error: OSError) -> str | None:
    """The path of an error, if it has one."""
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None


def to_econ_error(error: OSError, hint: str = "") -> EconError:
    """Convert an :class:`OSError` to an error for the user.

    Args:
        error: an error with an ``errno``.
        hint: what to do when the cause is resolved.
    """
    reason = error.strerror or "an error without a name"
    name = path_of_error(error)
    if error.errno in DISK_FULL_ERRORS:
        then = f"then {hint}" if hint else "then try again"
        where = "" if name is None else f" {name}"
        return EconError(f"free space to write{where}", reason, f"free some disk space, {then}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return EconError(f"permission to use {name or 'a file'}", reason, hint)
    what = reason if name is None else f"{name} ({reason})"
    return EconError("a usable path" if name else "files that can be used", what, hint)


def _is_torch_write_error(error: Exception) -> bool:
    """Whether an exception is a failed write of ``torch.save``."""
    messages = ("PytorchStreamWriter", "inline_container", "unexpected pos")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in messages)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before an expensive computation.

    Raises:
        EconError: the path is a folder.
        OSError: the folder is not writable, or the disk is full.
    """
    if path.is_dir():
        raise EconError("a file to write to", f"the folder {path}", "name a file")
    created = [parent for parent in path.parents if not parent.exists()]
    temporary = temporary_file(path)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            # os.access does not detect full disks, nor, for root, read-only ones
            temporary.write_bytes(bytes(_BLOCK))
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise to_os_error(error, path) or error from error
    finally:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any, checksum: bool = False) -> None:
    """Write a JSON file atomically; NaN and infinities become null.

    Args:
        path: path of the file.
        value: the content.
        checksum: whether to add a checksum; ``value`` has to be a dictionary.
    """
    value = nan_to_null(value)
    write_text(path, json.dumps(add_checksum(value) if checksum else value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run, verifying and removing its checksum.

    Raises:
        EconError: the file does not exist, is not a JSON object, or its checksum is wrong.
    """
    hint = f"train one with {command('train')} quick --run {shlex.quote(str(path.parent))}"
    value = untrusted.read_json(path, f"a run's folder with {path.name}", hint=hint)
    if not isinstance(value, dict):
        raise EconError(f"a JSON object in {path}", "other JSON")
    return verify_checksum(value, str(path))


def nan_to_null(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: nan_to_null(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def add_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """The object with a checksum."""
    return {**value, CHECKSUM: _digest(value)}


def verify_checksum(value: dict[str, Any], where: str) -> dict[str, Any]:
    """Verify the checksum of an object, if present, and remove it.

    Raises:
        EconError: the checksum is wrong.
    """
    rest = {name: v for name, v in value.items() if name != CHECKSUM}
    try:
        valid = CHECKSUM not in value or value[CHECKSUM] == _digest(rest)
    except RecursionError:  # the encoder's limit is lower than the decoder's
        raise EconError(f"JSON in {where}", "lists or objects nested too deep") from None
    if not valid:
        raise EconError(
            f"{where} as it was written",
            "another checksum: the file is damaged, or was edited",
            f'if you edited it, take the field "{CHECKSUM}" out of it',
        )
    return rest


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
