"""Locks on output folders, so that only one process writes to a folder at a time.

The locked file ``.NAME.lock`` lies beside the folder, so that it can exist before the folder and
remain while the folder is replaced. The operating system releases the lock when the process ends.
The content of the file identifies the holder. Readers need no lock, as files are replaced by
renaming.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from econ_pyro.errors import EconError
from econ_pyro.files import temporary_paths

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_INTERVAL = 0.05  # seconds between attempts
_MAX_BYTES = 1 << 12  # maximum size of a lock file


def lock_file(folder: Path) -> Path:
    """The lock file of a folder, the same for all paths to the folder."""
    real = Path(os.path.realpath(folder))
    return real.with_name(f".{real.name}.lock")


@contextmanager
def hold_lock(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Lock an output folder, and remove stale temporary folders beside it.

    Args:
        folder: the folder, which need not exist. Missing parents are created, and removed at the
            end if they are still empty.
        wait: seconds to wait for another holder.

    Raises:
        EconError: another process holds the lock; the message identifies it.
        OSError: the parent folder is not writable.
    """
    path = lock_file(folder)
    created = _create(path.parent)
    try:
        descriptor = _acquire(path, folder, wait)
        try:
            if descriptor is not None:
                temporary_paths.remove_stale_folders(Path(os.path.realpath(folder)))
            yield
        finally:
            if descriptor is not None:
                with suppress(OSError):
                    path.unlink()  # before releasing it, so that waiting processes detect this
                os.close(descriptor)
    finally:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()


def _acquire(path: Path, folder: Path, wait: float) -> int | None:
    """A descriptor that holds the lock; None if the file system has no locks."""
    deadline = time.monotonic() + wait
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # another process may have removed it
        descriptor = _open(path)
        try:
            if not _lock(descriptor):
                _warn(folder)
                with suppress(OSError):
                    path.unlink()
            elif _is_same_file(path, descriptor):
                _check_is_lock(path, descriptor)
                with suppress(OSError):  # a full disk: the lock is valid without content
                    os.truncate(descriptor, 0)
                    os.write(descriptor, _own_identity())
                return descriptor
            else:  # the holder removed the file between open and flock
                os.close(descriptor)
                continue
        except BlockingIOError:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            if time.monotonic() < deadline:
                time.sleep(_INTERVAL)
                continue
            raise EconError(
                f"no other process that writes to {folder}",
                holder,
                "wait until it has ended, or name another folder",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None


def _open(path: Path) -> int:
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:  # a file of another user can still be locked
        with suppress(OSError):
            return os.open(path, os.O_RDONLY | flags)
        raise


def _lock(descriptor: int) -> bool:
    """Lock a file; False if the system or the file system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno == errno.EACCES:  # raised by some systems instead
            raise BlockingIOError(*error.args) from None
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _check_is_lock(path: Path, descriptor: int) -> None:
    """Refuse another file that has the name of a lock file."""
    content = os.pread(descriptor, _MAX_BYTES, 0)
    if content and not content.startswith(b'{"program": '):
        raise EconError(f"no file {path}, whose name is a lock's", "one", "give it another name")


def _own_identity() -> bytes:
    identity = {
        "program": Path(sys.argv[0]).name,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    return json.dumps(identity).encode()


def _read_holder(descriptor: int) -> str:
    """Describe the holder of a lock."""
    try:
        holder = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        return (
            f"process {holder['pid']} ({holder['program']}) on {holder['host']}, "
            f"since {holder['since']}"
        )
    except (OSError, ValueError, KeyError, TypeError):  # the file has not been written yet
        return "one that has just begun"


def _warn(folder: Path) -> None:
    warnings.warn(
        f"no locks here: nothing keeps two processes from writing to {folder} at the same time",
        stacklevel=5,
    )


def _create(folder: Path) -> list[Path]:
    """Create a folder and its parents; returns the created ones, deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
