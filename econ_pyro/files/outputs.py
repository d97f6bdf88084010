"""Folders that programs of ours write: one writer at a time, and nothing is half written or lost.

What is one thing as a whole (a run, a dataset, weights) is :func:`staged`: it appears at once, in
place of what was there. Results beside which people keep files of their own are :func:`written`:
at once where there was no folder; into one that exists, files are moved one by one when all are
ready. What an earlier result left is removed, the rest stays.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from econ_pyro.errors import EconError
from econ_pyro.files import leftovers, locks, storage


@dataclass(frozen=True)
class Layout:
    """What tells files of one program."""

    marker: str
    """Pattern of a file that every result has; what lies beside it and below may be ours."""
    ours: str
    """Regular expression of our files' paths there, with ``/``."""


@contextmanager
def staged(
    out: Path, overwrite: bool = False, marker: str = "", locked: bool = False
) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends without an error.

    Nothing of what was there is lost before: not by an error, by a kill, or by another process
    that writes to the same folder, which has to wait.

    Args:
        out: the folder to make.
        overwrite: replace it if it exists.
        marker: pattern of a file that a folder of our making has; no other folder is replaced.
        locked: the caller holds its lock.

    Raises:
        EconError: it exists and is not empty, or is not of our making, or another process is
            writing to it.
        OSError: no room, no permission.
    """
    real = Path(os.path.realpath(out))  # of a link, what it leads to is replaced
    with nullcontext() if locked else locks.held(out):
        _check_ours(out, overwrite, marker)
        with _temporary(leftovers.unfinished_folder(real), out) as temporary:
            yield temporary
            _put(temporary, real)


@contextmanager
def written(out: Path, overwrite: bool, layout: Layout) -> Iterator[Path]:
    """A temporary folder whose content is in ``out`` when the block ends without an error.

    Args:
        out: the folder to write; made if needed.
        overwrite: write into it although it has files. Those of an earlier result in the same
            places are replaced, all others are kept.
        layout: of a result.

    Raises:
        EconError: it has files and ``overwrite`` is not given, or none of them are ours, or
            something of another kind is where a file or folder of ours has to be, or another
            process is writing to it.
        OSError: no room, no permission.
    """
    with locks.held(out):
        there, place = out.is_dir(), _within(out)
        leftovers.clear_folders(place)
        _check_ours(out, overwrite, layout.marker)
        with _temporary(leftovers.unfinished_folder(place), out) as temporary:
            yield temporary
            if there:
                _check_room(temporary, out)
                _remove_old(out, temporary, layout)
                _move(temporary, out)
            else:
                temporary.rename(place)


def check_folder(
    out: Path, overwrite: bool = False, made: str | Layout = "", locked: bool = False
) -> None:
    """Check that a folder will be writable, before computing what is to be in it.

    Args:
        out: the folder.
        overwrite: as given to :func:`staged` or :func:`written` then.
        made: the marker of the former or the layout of the latter.
        locked: the caller holds its lock.

    Raises:
        EconError: as they do.
        OSError: likewise.
    """
    with nullcontext() if locked else locks.held(out):
        _check_ours(out, overwrite, made.marker if isinstance(made, Layout) else made)
        place = _within(out) if isinstance(made, Layout) else Path(os.path.realpath(out))
        folder = leftovers.unfinished_folder(place)
        try:
            storage.check_writable(folder / "check")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(out)) from error


def _within(out: Path) -> Path:
    """Where files are made that are moved into ``out``, which may be a disk of its own."""
    real = Path(os.path.realpath(out))
    return real / real.name if real.is_dir() else real


def _check_ours(out: Path, overwrite: bool, marker: str) -> None:
    if out.is_symlink() and not out.exists():
        raise EconError("a folder to write to", f"{out}, a link to nothing", "name another folder")
    new_folder(out, overwrite)
    if marker and out.is_dir() and any(out.iterdir()) and not any(out.glob(marker)):
        raise EconError(
            f"a folder with {marker}, to overwrite", f"{out}, without one", "name another folder"
        )


@contextmanager
def _temporary(folder: Path, out: Path) -> Iterator[Path]:
    """A folder that is gone when the block ends; errors name ``out`` in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)  # of a process of the same number
    folder.mkdir()
    try:
        yield folder
    except OSError as error:
        if not error.errno:
            raise
        raise _renamed(error, folder, out) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _renamed(error: OSError, temporary: Path, out: Path) -> OSError:
    """An error by the name that the user knows."""
    name = storage.name_in(error)
    if name is None and error.errno in storage.NO_ROOM:  # of a write, which does not say where
        name = str(out)
    elif name is not None and Path(name).is_relative_to(temporary):
        name = str(out / Path(name).relative_to(temporary))
    return OSError(error.errno, error.strerror, name)


def _put(new: Path, out: Path) -> None:
    """Rename a folder to ``out``, in place of what may be there: whole, whenever it is killed."""
    aside = leftovers.set_aside(out)
    if out.exists():
        out.rename(aside)
    try:
        new.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def new_folder(path: Path, overwrite: bool) -> Path:
    """Check that an output folder may be written, without touching it yet.

    Raises:
        EconError: it exists and is not empty, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise EconError("a folder to write to", f"the file {path}", "name another folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise EconError(
            "a new or empty output folder", f"{path}, which has files", "add --overwrite"
        )
    return path


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


def _remove_old(out: Path, new: Path, layout: Layout) -> None:
    """Remove an earlier result where a new one comes; copies of it elsewhere may be edited."""
    for root in {marker.parent for marker in out.glob(layout.marker)}:
        place = root.relative_to(out)
        if root != out and (root.is_symlink() or not (new / place).is_dir()):
            continue  # what a link leads to is elsewhere
        for folder, _, names in os.walk(root, topdown=False):  # follows no links
            paths = [Path(folder, name) for name in names]
            ours = [p for p in paths if re.fullmatch(layout.ours, p.relative_to(root).as_posix())]
            for path in ours:
                path.unlink()
            if ours and Path(folder) != out and not os.listdir(folder):
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
