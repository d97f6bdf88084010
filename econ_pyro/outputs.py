"""Folders that programs of ours write, and write anew, beside what others put there.

All of a result appears at once where there was no folder. Into one that exists its files are
moved one by one when all are ready: what an earlier result left is removed, the rest stays.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from econ_pyro import cli
from econ_pyro.errors import EconError


@dataclass(frozen=True)
class Layout:
    """What tells files of one program."""

    marker: str
    """Pattern of a file that every result has; what lies beside it and below may be ours."""
    ours: str
    """Regular expression of our files' paths there, with ``/``."""


@contextmanager
def written(out: Path, overwrite: bool, layout: Layout) -> Iterator[Path]:
    """A temporary folder whose content is in ``out`` when the block ends without an error.

    Args:
        out: the folder to write; made if needed.
        overwrite: write into it although it has files. Those of an earlier result are replaced,
            all others are kept.
        layout: of a result.

    Raises:
        EconError: it has files and ``overwrite`` is not given, or none of them are ours, or
            something of another kind is where a file or folder of ours has to be.
    """
    if out.is_symlink() and not out.exists():
        raise EconError("a folder to write to", f"{out}, a link to nothing", "name another folder")
    cli.new_folder(out, overwrite)
    there = out.is_dir()
    if there and any(out.iterdir()) and not any(out.glob(layout.marker)):
        raise EconError(
            f"a folder with {layout.marker}, to overwrite",
            f"{out}, without one",
            "name another folder",
        )
    beside = out if there else out.parent  # where it can be moved from, as a whole
    beside.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=beside))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's folders are private
        if there:
            _check_room(temporary, out)
            _remove_old(out, layout)
            _move(temporary, out)
        else:
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_room(new: Path, out: Path) -> None:
    """No file where a folder has to be, and the other way round."""
    for entry in new.iterdir():
        place = out / entry.name
        if place.is_symlink() or not place.exists():
            continue
        if entry.is_dir() != place.is_dir():
            kinds = ("a folder", "a file") if entry.is_dir() else ("a file", "a folder")
            raise EconError(f"{kinds[0]} or nothing at {place}", kinds[1], "move it elsewhere")
        if entry.is_dir():
            _check_room(entry, place)


def _remove_old(out: Path, layout: Layout) -> None:
    for root in {marker.parent for marker in out.glob(layout.marker)}:
        if root != out and root.is_symlink():
            continue  # what it leads to is elsewhere
        for folder, _, files in os.walk(root, topdown=False):  # follows no links
            for name in files:
                path = Path(folder, name)
                if re.fullmatch(layout.ours, path.relative_to(root).as_posix()):
                    path.unlink()
            if Path(folder) != out and not os.listdir(folder):
                os.rmdir(folder)


def _move(new: Path, out: Path) -> None:
    for entry in new.iterdir():
        place = out / entry.name
        if entry.is_dir() and place.is_dir() and not place.is_symlink():
            _move(entry, place)
            continue
        if entry.is_dir() and place.is_symlink():
            place.unlink()  # the link alone: nothing is written where it leads
        entry.replace(place)
