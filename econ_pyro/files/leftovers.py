"""Names of what is unfinished, and how the next start clears away what a killed process left.

Whatever is written gets its name when it is whole. Until then it has a name that begins with a
dot and holds the number of the process that writes it::

    .last.1234.tmp.pt    a file that becomes last.pt
    .quick.1234.tmp      a folder that becomes quick
    .quick.1234.old      the folder quick that it replaces, for the moment between two renames

Nothing else is ever cleared away, and nothing of a process that lives.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_FILE = re.compile(r"\..+\.(\d+)\.tmp(\.\w+)?")


def unfinished_file(path: Path) -> Path:
    """Name of a file until it is whole; it ends as ``path`` does, for writers that go by it."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def unfinished_folder(path: Path) -> Path:
    """Name of a folder until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def set_aside(path: Path) -> Path:
    """Name of a folder while another takes its place."""
    return path.with_name(f".{path.name}.{os.getpid()}.old")


def clear_folders(path: Path) -> None:
    """Clear away what a killed process left beside a folder that it was making or replacing.

    Args:
        path: the folder; one that was set aside comes back where nothing took its place.
    """
    for left, ending in _beside(path):
        if ending == "old" and not path.exists():
            left.rename(path)  # killed before the new one took its place
        else:
            shutil.rmtree(left, ignore_errors=True)


def clear_files(*folders: Path) -> None:
    """Clear away the unfinished files of dead processes that are directly in these folders."""
    for folder in folders:
        with suppress(OSError):  # no such folder, or one that is not ours to change
            for path in list(folder.iterdir()):
                match = _FILE.fullmatch(path.name)
                if match and _dead(match[1]) and path.is_file():
                    path.unlink(missing_ok=True)


def _beside(path: Path) -> Iterator[tuple[Path, str]]:
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(tmp|old)")
    try:
        found = sorted(path.parent.iterdir())
    except OSError:  # others' folder, which may be written and not read
        return
    for left in found:
        match = name.fullmatch(left.name)
        if match and _dead(match[1]) and left.is_dir() and not left.is_symlink():
            yield left, match[2]


def _dead(number: str) -> bool:
    """Whether the process of that number is over, or is this one, which has just begun."""
    if int(number) == os.getpid():  # in a container, every run may have the same number
        return True
    if os.name == "nt":  # there, "signal 0" is Ctrl-C
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's; no process of ours
        return False
    return False
