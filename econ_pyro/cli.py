"""What the entry points share: one clear line and exit status 2 for a mistake."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro

from econ_pyro import files, leftovers, locks, parallel, presets, process, stopping
from econ_pyro.config import Config
from econ_pyro.errors import EconError

T = TypeVar("T")


def run(main: Callable[[], None]) -> None:
    """Run an entry point; a user's mistake becomes one line on stderr and exit status 2."""
    process.keep_memory()
    parallel.use_cores()
    try:
        with stopping.raised():
            main()
            sys.stdout.flush()  # a full disk under it is a mistake like others
    except EconError as error:
        _exit(2, f"error: {error}")
    except stopping.Stopped as stop:
        _exit(stop.status, str(stop))
    except KeyboardInterrupt:
        _exit(130, "stopped")
    except BrokenPipeError:  # whoever read what is printed has gone, as head does
        _exit(141)
    except OSError as error:
        if not error.errno:  # no error of the system, but what some libraries raise
            raise
        _exit(2, f"error: {files.write_failed(error)}")


def _exit(status: int, message: str = "") -> None:
    with suppress(OSError):  # a terminal that was closed, a log on a full disk
        if message:
            print(message, file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at the end, and have a traceback for it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def of_preset(
    cls: Callable[..., T],
    args: Sequence[str] | None,
    description: str | None,
    named: Mapping[str, tuple[str, Config]] | None = None,
) -> T:
    """Arguments that begin with a preset, each of whose fields an option can set.

    Args:
        cls: a dataclass with the fields of a :class:`~econ_pyro.config.Config`, and ``preset``.
        args: command line; that of the process if not given.
        description: what the entry point does, for ``--help``.
        named: descriptions and configurations by preset; ours if not given.
    """
    options: dict[str, tuple[str, Any]] = {
        name: (text, cls(**vars(config), preset=name))
        for name, (text, config) in (named or presets.PRESETS).items()
    }
    return tyro.extras.overridable_config_cli(options, args=args, description=description)


def config_of(parsed: Config) -> Config:
    """What of an entry point's arguments is configuration."""
    return Config(**{f.name: getattr(parsed, f.name) for f in dataclasses.fields(Config)})


def pick_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu`` or ``cuda``.

    Raises:
        EconError: CUDA was asked for where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EconError("a CUDA device", "none on this machine", "use --device cpu")
    return torch.device(name)


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
    real.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if locked else locks.held(out):
        _check_ours(out, overwrite, marker)
        temporary = leftovers.unfinished_folder(real)
        shutil.rmtree(temporary, ignore_errors=True)  # of a process of the same number
        temporary.mkdir()
        try:
            yield temporary
            _put(temporary, real)
        except OSError as error:
            if not error.errno:
                raise
            raise _renamed(error, temporary, out) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_folder(
    out: Path, overwrite: bool = False, marker: str = "", locked: bool = False
) -> None:
    """Check that :func:`staged` will be able to make a folder, before computing what is in it.

    Raises:
        EconError: as :func:`staged`, whose arguments these are.
        OSError: likewise.
    """
    with nullcontext() if locked else locks.held(out):
        _check_ours(out, overwrite, marker)
        folder = leftovers.unfinished_folder(Path(os.path.realpath(out)))
        try:
            files.check_writable(folder / "check")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(out)) from error


def _check_ours(out: Path, overwrite: bool, marker: str) -> None:
    new_folder(out, overwrite)
    if marker and out.is_dir() and any(out.iterdir()) and not any(out.glob(marker)):
        raise EconError(
            f"a folder with {marker}, to overwrite", f"{out}, without one", "name another folder"
        )


def _renamed(error: OSError, temporary: Path, out: Path) -> OSError:
    """An error by the name that the user knows."""
    name = files.name_in(error)
    if name is None and error.errno in files.NO_ROOM:  # of a write, which does not say where
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
