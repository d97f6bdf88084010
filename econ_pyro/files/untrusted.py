"""Opening untrusted files: regular files only, of bounded size.

A path may lead to a named pipe on which ``open`` blocks for ever, an endless device, a link to
itself, or a text that does not fit into memory. All paths from users are opened or checked here
first, whichever library reads the file afterwards.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from econ_pyro.errors import EconError

MAX_TEXT = 64 << 20
"""Maximum size of a text or JSON file in bytes."""
MAX_UNPACKED = 4 << 30
"""Maximum size of an extracted archive of arrays in bytes."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path | str, expected: str, hint: str = "") -> BinaryIO:
    """Open a regular file, or a link to one, for reading; never blocks.

    Args:
        path: the file.
        expected: what the file should be, for the error message.
        hint: what to try if the file does not exist.

    Raises:
        EconError: the file does not exist, is not a regular file, or is not readable.
    """
    try:
        # without O_NONBLOCK, opening a named pipe blocks until another process writes to it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        _refuse(path, expected, error, hint)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise EconError(expected, f"{path}, which is {_kind(mode)}", hint)
    return os.fdopen(descriptor, "rb")


def check_regular(path: Path | str, expected: str, hint: str = "") -> int:
    """Check a file that a library will open by its path.

    Args:
        path: the file.
        expected: what the file should be, for the error message.
        hint: what to try if the file does not exist.

    Returns:
        The size of the file in bytes.

    Raises:
        EconError: as :func:`open_regular`.
    """
    with open_regular(path, expected, hint) as file:
        return os.fstat(file.fileno()).st_size


def walk(folder: Path | str, expected: str) -> tuple[list[Path], dict[Path, EconError]]:
    """List all regular files in a folder and its subfolders.

    Links to files are followed. Links to folders are not, as they may form cycles. Names that
    begin with a dot are ignored.

    Args:
        folder: the folder.
        expected: what the files should be, for error messages.

    Returns:
        The files, sorted, and an error for each pipe, socket, device, broken link, and link to
        itself or to a folder.

    Raises:
        EconError: the folder does not exist or is not a folder.
        PermissionError: a folder is not readable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise EconError(f"a folder of {expected}", f"{folder}, which {reason}")
    found: list[Path] = []
    irregular: dict[Path, str] = {}
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(root, name) for name in folders):
            if path.is_symlink():
                irregular[path] = "a link to a folder, which is not followed"
        for path in (Path(root, name) for name in files if not name.startswith(".")):
            try:
                mode = path.stat().st_mode
            except OSError as error:
                irregular[path] = _reason(path, error)
            else:
                if stat.S_ISREG(mode):
                    found.append(path)
                else:
                    irregular[path] = f"which is {_kind(mode)}"
    return sorted(found), {
        p: EconError(expected, f"{p}, {irregular[p]}") for p in sorted(irregular)
    }


def _raise(error: OSError) -> None:
    raise error


def read_bytes(
    path: Path | str, expected: str, max_bytes: int = MAX_TEXT, hint: str = ""
) -> bytes:
    """Read a regular file of at most ``max_bytes`` bytes.

    Raises:
        EconError: as :func:`open_regular`, or the file is larger.
    """
    with open_regular(path, expected, hint) as file:
        # fstat does not suffice: some file systems report a size of 0
        data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            size = max(os.fstat(file.fileno()).st_size, len(data))
            raise EconError(f"{expected} of at most {max_bytes:,} bytes", f"{path} of {size:,}")
    return data


def read_json(path: Path | str, expected: str, max_bytes: int = MAX_TEXT, hint: str = "") -> Any:
    """Read a JSON file; NaN and Infinity, which :mod:`json` accepts, are errors.

    Raises:
        EconError: as :func:`read_bytes`, or the file is not JSON.
    """
    return parse_json(read_bytes(path, expected, max_bytes, hint), str(path))


def parse_json(text: bytes | str, where: str) -> Any:
    """Parse JSON.

    Args:
        text: the text; UTF-8 if bytes.
        where: source of the text, for the error message.

    Raises:
        EconError: the text is not JSON, is nested too deeply, has a number of thousands of
            digits, or an object with two fields of one name.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise EconError(f"JSON in {where}", "lists or objects nested too deep") from None
    except ValueError as error:  # including UnicodeDecodeError and JSONDecodeError
        raise EconError(f"JSON in {where}", f"a damaged file ({first_line(error)})") from None


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(fields)
    if len(found) < len(fields):
        names = [name for name, _ in fields]
        raise ValueError(f"{max(names, key=names.count)!r} twice in an object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not a number")


def first_line(error: Exception) -> str:
    """First line of an error's message, or else its type."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def _refuse(path: Path | str, expected: str, error: OSError | ValueError, hint: str) -> NoReturn:
    raise EconError(expected, f"{path}, {_reason(path, error)}", hint) from None


def _reason(path: Path | str, error: OSError | ValueError) -> str:
    reasons = {
        errno.ENOENT: "a broken link" if os.path.islink(path) else "which does not exist",
        errno.ELOOP: "a link to itself",
        errno.EACCES: "which may not be read",
        errno.EPERM: "which may not be read",
        errno.ENXIO: "which is a socket",
    }
    code = error.errno if isinstance(error, OSError) else None
    return reasons.get(code or 0, f"which cannot be opened ({first_line(error)})")
