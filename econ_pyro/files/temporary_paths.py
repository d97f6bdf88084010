"""Temporary names of files and folders being written, and removal of stale ones.

Files and folders get their final name when they are complete. Until then, the name begins with a
dot and contains the ID of the process::

    .last.1234.tmp.pt    a file that becomes last.pt
    .quick.1234.tmp      a folder that becomes quick
    .quick.1234.old      the replaced folder quick, between two renames

The next process removes those of processes that have ended, and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_FILE = re.compile(r"\..+\.(\d+)\.tmp(\.\w+)?")


def temporary_file(path: Path) -> Path:
    """Temporary path of a file, with the suffix of ``path``, as some writers depend on it."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def temporary_folder(path: Path) -> Path:
    """Temporary path of a folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def backup_folder(path: Path) -> Path:
    """Path of a folder while it is being replaced."""
    return path.with_name(f".{path.name}.{os.getpid()}.old")


def remove_stale_folders(path: Path) -> None:
    """Remove stale temporary and backup folders; restore a backup if nothing replaced it.

    Args:
        path: the folder that was being written.
    """
    for stale, suffix in _find_stale(path):
        if suffix == "old" and not path.exists():
            stale.rename(path)  # the process was killed before the new folder replaced it
        else:
            shutil.rmtree(stale, ignore_errors=True)


def remove_stale_files(*folders: Path) -> None:
    """Remove stale temporary files directly in these folders."""
    for folder in folders:
        with suppress(OSError):  # the folder does not exist or is not writable
            for path in list(folder.iterdir()):
                match = _FILE.fullmatch(path.name)
                if match and _has_ended(match[1]) and path.is_file():
                    path.unlink(missing_ok=True)


def _find_stale(path: Path) -> Iterator[tuple[Path, str]]:
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(tmp|old)")
    try:
        found = sorted(path.parent.iterdir())
    except OSError:  # a folder that is writable but not readable
        return
    for stale in found:
        match = name.fullmatch(stale.name)
        if match and _has_ended(match[1]) and stale.is_dir() and not stale.is_symlink():
            yield stale, match[2]


def _has_ended(pid: str) -> bool:
    """Whether the process has ended, or is this one, which has not yet written anything."""
    if int(pid) == os.getpid():  # in a container, every run may have the same ID
        return True
    if os.name == "nt":  # on Windows, signal 0 is Ctrl-C
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # a process of another user, or not a process ID
        return False
    return False
