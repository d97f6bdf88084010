"""Where files that somebody else made are opened: regular files alone, and bounded.

A path that a user gives can lead to anything: a named pipe on which ``open`` waits for ever, a
device without an end, a link to itself, a text that fills the memory. Whoever reads such a path
goes through here first, whatever library reads it then.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from econ_pyro.errors import EconError

MOST_TEXT = 64 << 20
"""Bytes of the largest text or JSON file that is read."""
MOST_UNPACKED = 4 << 30
"""Bytes that a packed archive of arrays is unpacked to, at most, in a temporary file."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path | str, expected: str, hint: str = "") -> BinaryIO:
    """Open a regular file, or a link to one, for reading; never waits.

    Args:
        path: the file.
        expected: what it should be, for the error message.
        hint: what to try if there is none.

    Raises:
        EconError: there is none, it is of another kind, or it may not be read.
    """
    try:
        # without O_NONBLOCK, opening a named pipe waits for somebody who writes into it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        _refuse(path, expected, error, hint)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise EconError(expected, f"{path}, which is {_kind(mode)}", hint)
    return os.fdopen(descriptor, "rb")


def check_regular(path: Path | str, expected: str, hint: str = "") -> int:
    """Check a file that a library is going to open by its name.

    Args:
        path: the file.
        expected: what it should be, for the error message.
        hint: what to try if there is none.

    Returns:
        Its size in bytes.

    Raises:
        EconError: as :func:`open_regular`.
    """
    with open_regular(path, expected, hint) as file:
        return os.fstat(file.fileno()).st_size


def walk(folder: Path | str, expected: str) -> tuple[list[Path], dict[Path, EconError]]:
    """All regular files in a folder and the folders in it, and what else lies there.

    Links to files are followed, links to folders are not: they may lead in a circle. Names that
    begin with a dot are left out.

    Args:
        folder: where to begin.
        expected: what its files should be, for the error messages.

    Returns:
        Files, sorted; and for each pipe, socket, device, link to nothing, to itself or to a
        folder what is wrong with it.

    Raises:
        EconError: the folder does not exist or is not a folder.
        PermissionError: some folder may not be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise EconError(f"a folder of {expected}", f"{folder}, which {what}")
    found: list[Path] = []
    odd: dict[Path, str] = {}
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(root, name) for name in folders):
            if path.is_symlink():
                odd[path] = "a link to a folder, which is not followed"
        for path in (Path(root, name) for name in files if not name.startswith(".")):
            try:
                mode = path.stat().st_mode
            except OSError as error:
                odd[path] = _reason(path, error)
            else:
                if stat.S_ISREG(mode):
                    found.append(path)
                else:
                    odd[path] = f"which is {_kind(mode)}"
    return sorted(found), {p: EconError(expected, f"{p}, {odd[p]}") for p in sorted(odd)}


def _raise(error: OSError) -> None:
    raise error


def read_bytes(path: Path | str, expected: str, most: int = MOST_TEXT, hint: str = "") -> bytes:
    """All of a regular file of at most ``most`` bytes.

    Raises:
        EconError: as :func:`open_regular`, or it is larger.
    """
    with open_regular(path, expected, hint) as file:
        # no trust in fstat alone: files of some file systems say 0 and have an end elsewhere
        data = file.read(most + 1)
        if len(data) > most:
            size = max(os.fstat(file.fileno()).st_size, len(data))
            raise EconError(f"{expected} of at most {most:,} bytes", f"{path} of {size:,}")
    return data


def read_json(path: Path | str, expected: str, most: int = MOST_TEXT, hint: str = "") -> Any:
    """What a JSON file holds; :mod:`json`'s NaN and Infinity, which JSON has not, are errors.

    Raises:
        EconError: as :func:`read_bytes`, or it is not JSON.
    """
    return parse_json(read_bytes(path, expected, most, hint), str(path))


def parse_json(text: bytes | str, where: str) -> Any:
    """What a JSON text holds.

    Args:
        text: of any length and depth; UTF-8 if bytes.
        where: name of the place, for the error message.

    Raises:
        EconError: it is not JSON, too deep, or has numbers of thousands of digits.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise EconError(f"JSON in {where}", "lists or objects nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are kinds of it
        raise EconError(f"JSON in {where}", f"a damaged file ({first_line(error)})") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not a number")


def first_line(error: Exception) -> str:
    """What an error says, in short: its first line, or else its name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def _refuse(path: Path | str, expected: str, error: OSError | ValueError, hint: str) -> NoReturn:
    raise EconError(expected, f"{path}, {_reason(path, error)}", hint) from None


def _reason(path: Path | str, error: OSError | ValueError) -> str:
    reasons = {
        errno.ENOENT: "a link to nothing" if os.path.islink(path) else "which does not exist",
        errno.ELOOP: "a link to itself",
        errno.EACCES: "which may not be read",
        errno.EPERM: "which may not be read",
        errno.ENXIO: "which is a socket",
    }
    code = error.errno if isinstance(error, OSError) else None
    return reasons.get(code or 0, f"which cannot be opened ({first_line(error)})")
