"""One writer at a time: a lock on an output folder, which goes with the process that holds it.

The lock is on a file beside the folder, ``.NAME.lock``, so that it is there before the folder is
and stays while the folder is replaced. The system takes it back when the process ends in whatever
way. What is in the file says who holds it. Readers need no lock: files change by renaming.
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
from econ_pyro.files import leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_TURN = 0.05  # seconds between two tries
_MOST = 1 << 12  # bytes of what is in the file


def lock_file(folder: Path) -> Path:
    """The file whose lock is that of a folder, however its path is spelt."""
    real = Path(os.path.realpath(folder))
    return real.with_name(f".{real.name}.lock")


@contextmanager
def held(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output folder, and clear away what a killed holder left.

    Args:
        folder: need not be there; the folders above it are made, and go again if they stay empty.
        wait: seconds to wait for another holder.

    Raises:
        EconError: another process holds it; the message says which.
        OSError: the folder above may not be written.
    """
    path = lock_file(folder)
    made = _make(path.parent)
    try:
        descriptor = _take(path, folder, wait)
        try:
            if descriptor is not None:
                leftovers.clear_folders(Path(os.path.realpath(folder)))
            yield
        finally:
            if descriptor is not None:
                with suppress(OSError):
                    path.unlink()  # before it is free: whoever waits sees that it is another file
                os.close(descriptor)
    finally:
        for above in made:
            with suppress(OSError):
                above.rmdir()


def _take(path: Path, folder: Path, wait: float) -> int | None:
    """A descriptor that holds the lock; None where there are no locks."""
    until = time.monotonic() + wait
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # another may just have taken it away
        descriptor = _open(path)
        try:
            if not _lock(descriptor):
                _warn(folder)
                with suppress(OSError):
                    path.unlink()
            elif _is(path, descriptor):
                _check_ours(path, descriptor)
                with suppress(OSError):  # no room: the lock counts, not what is in its file
                    os.truncate(descriptor, 0)
                    os.write(descriptor, _about())
                return descriptor
            else:  # its holder ended, and took it away, between our opening and our locking it
                os.close(descriptor)
                continue
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            if time.monotonic() < until:
                time.sleep(_TURN)
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
    except PermissionError:  # left by a process of another user, perhaps: it can still be locked
        with suppress(OSError):
            return os.open(path, os.O_RDONLY | flags)
        raise


def _lock(descriptor: int) -> bool:
    """Lock a file; False where the system or the file system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno == errno.EACCES:  # what some systems say in its place
            raise BlockingIOError(*error.args) from None
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _check_ours(path: Path, descriptor: int) -> None:
    """Leave a file alone that happens to have the name of a lock."""
    said = os.pread(descriptor, _MOST, 0)
    if said and not said.startswith(b'{"program": '):
        raise EconError(f"no file {path}, whose name is a lock's", "one", "give it another name")


def _about() -> bytes:
    about = {
        "program": Path(sys.argv[0]).name,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    return json.dumps(about).encode()


def _holder(descriptor: int) -> str:
    """Who holds a lock, as far as its file says."""
    try:
        about = json.loads(os.pread(descriptor, _MOST, 0))
        return (
            f"process {about['pid']} ({about['program']}) on {about['host']}, "
            f"since {about['since']}"
        )
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun
        return "one that has just begun"


def _warn(folder: Path) -> None:
    warnings.warn(
        f"no locks here: nothing keeps two processes from writing to {folder} at the same time",
        stacklevel=5,
    )


def _make(folder: Path) -> list[Path]:
    """Make a folder; what had to be made for it, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
