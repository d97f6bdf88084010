"""Output folders: one writer at a time, and never partly written.

Runs, datasets and weights use :func:`atomic_folder`, which replaces a folder as a whole. Results
that users may keep next to their own files use :func:`merged_folder`, which moves the new files
into an existing folder when all are complete. It removes files of an earlier result and keeps all
others.
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
from econ_pyro.files import locks, storage, temporary_paths


@dataclass(frozen=True)
class OutputLayout:
    """Identifies the files of a program in an output folder."""

    marker: str
    """Glob pattern of a file that every result contains."""
    files: str
    """Regular expression of the result's files, as POSIX paths relative to the marker's folder."""


@contextmanager
def atomic_folder(
    out: Path, overwrite: bool = False, marker: str = "", locked: bool = False
) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends without an error.

    Until then, the previous content of ``out`` stays intact, even if the process is killed.

    Args:
        out: the folder to write.
        overwrite: whether to replace an existing folder.
        marker: glob pattern; a folder without a matching file is not replaced.
        locked: whether the caller holds the lock of ``out``.

    Raises:
        EconError: the folder is not empty and ``overwrite`` is False, it has no ``marker``, or
            another process is writing to it.
        OSError: the disk is full, or the folder is not writable.
    """
    real = Path(os.path.realpath(out))  # of a link, replace the target
    with nullcontext() if locked else locks.hold_lock(out):
        _check_replaceable(out, overwrite, marker)
        with _temporary(temporary_paths.temporary_folder(real), out) as temporary:
            yield temporary
            _replace(temporary, real)


@contextmanager
def merged_folder(out: Path, overwrite: bool, layout: OutputLayout) -> Iterator[Path]:
    """A temporary folder whose content is moved to ``out`` when the block ends without an error.

    Args:
        out: the folder to write; created if it does not exist.
        overwrite: whether to write into a folder with files. Files of an earlier result are
            replaced, all others are kept.
        layout: layout of the result.

    Raises:
        EconError: the folder has files and ``overwrite`` is False, it has no earlier result, a
            file is in the place of a folder or vice versa, or another process is writing to it.
        OSError: the disk is full, or the folder is not writable.
    """
    with locks.hold_lock(out):
        exists, place = out.is_dir(), _place_of_temporary(out)
        temporary_paths.remove_stale_folders(place)
        _check_replaceable(out, overwrite, layout.marker)
        with _temporary(temporary_paths.temporary_folder(place), out) as temporary:
            yield temporary
            if exists:
                _check_kinds(temporary, out)
                _remove_old(out, temporary, layout)
                _move(temporary, out)
            else:
                temporary.rename(place)


def check_output(
    out: Path, overwrite: bool = False, layout: str | OutputLayout = "", locked: bool = False
) -> None:
    """Check that a folder can be written, before an expensive computation.

    Args:
        out: the folder.
        overwrite: as for :func:`atomic_folder` and :func:`merged_folder`.
        layout: the marker of :func:`atomic_folder` or the layout of :func:`merged_folder`.
        locked: whether the caller holds the lock of ``out``.

    Raises:
        EconError: as these functions.
        OSError: as these functions.
    """
    with nullcontext() if locked else locks.hold_lock(out):
        if isinstance(layout, OutputLayout):
            marker, place = layout.marker, _place_of_temporary(out)
        else:
            marker, place = layout, Path(os.path.realpath(out))
        _check_replaceable(out, overwrite, marker)
        folder = temporary_paths.temporary_folder(place)
        try:
            storage.check_writable(folder / "check")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(out)) from error


def _place_of_temporary(out: Path) -> Path:
    """Where to create files that are moved into ``out``, on the same file system."""
    real = Path(os.path.realpath(out))
    return real / real.name if real.is_dir() else real


def _check_replaceable(out: Path, overwrite: bool, marker: str) -> None:
    if out.is_symlink() and not out.exists():
        raise EconError("a folder to write to", f"{out}, a broken link", "name another folder")
    _check_new_folder(out, overwrite)
    if marker and out.is_dir() and any(out.iterdir()) and not any(out.glob(marker)):
        raise EconError(
            f"a folder with {marker}, to overwrite", f"{out}, without one", "name another folder"
        )


@contextmanager
def _temporary(folder: Path, out: Path) -> Iterator[Path]:
    """A folder that is removed when the block ends; errors name ``out`` instead."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)  # of an ended process with the same ID
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
    """The error with the path in ``out`` instead of the temporary one."""
    name = storage.path_of_error(error)
    if name is None and error.errno in storage.DISK_FULL_ERRORS:  # writes do not set a path
        name = str(out)
    elif name is not None and Path(name).is_relative_to(temporary):
        name = str(out / Path(name).relative_to(temporary))
    return OSError(error.errno, error.strerror, name)


def _replace(new: Path, out: Path) -> None:
    """Rename ``new`` to ``out``, keeping a backup of the old folder in between."""
    backup = temporary_paths.backup_folder(out)
    if out.exists():
        out.rename(backup)
    try:
        new.rename(out)
    except OSError:
        if backup.exists():
            backup.rename(out)
        raise
    shutil.rmtree(backup, ignore_errors=True)


def _check_new_folder(path: Path, overwrite: bool) -> Path:
    """Check that an output folder may be written, without changing it.

    Raises:
        EconError: the folder is not empty and ``overwrite`` is False, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise EconError("a folder to write to", f"the file {path}", "name another folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise EconError(
            "a new or empty output folder", f"{path}, which has files", "add --overwrite"
        )
    return path


def _check_kinds(new: Path, out: Path) -> None:
    """Check that no file is in the place of a folder, or vice versa."""
    for entry in new.iterdir():
        place = out / entry.name
        if place.is_symlink() or not place.exists():
            continue
        if entry.is_dir() != place.is_dir():
            kinds = ("a folder", "a file") if entry.is_dir() else ("a file", "a folder")
            raise EconError(f"{kinds[0]} or nothing at {place}", kinds[1], "move it elsewhere")
        if entry.is_dir():
            _check_kinds(entry, place)


def _remove_old(out: Path, new: Path, layout: OutputLayout) -> None:
    """Remove an earlier result in the place of the new one; other copies may be edited ones."""
    for root in {marker.parent for marker in out.glob(layout.marker)}:
        place = root.relative_to(out)
        if root != out and (root.is_symlink() or not (new / place).is_dir()):
            continue  # do not follow links
        for folder, _, names in os.walk(root, topdown=False):  # does not follow links
            paths = [Path(folder, name) for name in names]
            old = [p for p in paths if re.fullmatch(layout.files, p.relative_to(root).as_posix())]
            for path in old:
                path.unlink()
            if old and Path(folder) != out and not os.listdir(folder):
                os.rmdir(folder)


def _move(new: Path, out: Path) -> None:
    for entry in new.iterdir():
        place = out / entry.name
        if entry.is_dir() and place.is_dir() and not place.is_symlink():
            _move(entry, place)
            continue
        if entry.is_dir() and place.is_symlink():
            place.unlink()  # replace the link, not its target
        entry.replace(place)
