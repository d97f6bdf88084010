"""What the entry points share: one clear line and exit status 2 for a mistake."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro

from econ_pyro import naming, presets, process
from econ_pyro.config import Config
from econ_pyro.errors import EconError

T = TypeVar("T")
MOST_SAID = 2000  # characters of an error


def run(main: Callable[[], None]) -> None:
    """Run an entry point; a user's mistake becomes one line on stderr and exit status 2."""
    process.keep_memory()
    try:
        main()
    except EconError as error:
        _exit(str(error))
    except PermissionError as error:
        _exit(f"expected permission to use {error.filename}, got {error.strerror}")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _exit(f"expected room to write, got {error.strerror}: free some space and try again")
        if error.errno not in (errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        _exit(f"expected a usable path, got {error.filename} ({error.strerror})")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _exit(message: str) -> None:
    # names of files can have line ends, and what a terminal would act upon
    print(f"error: {naming.shown(message, MOST_SAID)}", file=sys.stderr)
    sys.exit(2)


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
def staged(out: Path, overwrite: bool = False, marker: str = "") -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends without an error.

    Args:
        out: the folder to make.
        overwrite: replace it if it exists.
        marker: pattern of a file that a folder of our making has; no other folder is replaced.

    Raises:
        EconError: it exists and is not empty, or is not of our making.
    """
    new_folder(out, overwrite)
    if marker and out.is_dir() and any(out.iterdir()) and not any(out.glob(marker)):
        raise EconError(
            f"a folder with {marker}, to overwrite", f"{out}, without one", "name another folder"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's folders are private
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
