"""Handling of SIGINT, SIGTERM and SIGHUP: at once, or between two training steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # not on Windows
    SIGNALS.append(signal.SIGHUP)
_hangup = getattr(signal, "SIGHUP", None)  # stays ignored under nohup
PARENT = "ECON_PYRO_PARENT"
"""Environment variable of a process whose parent, which has this number, stops it with itself."""
_ECHO = 1.0  # seconds within which a parent repeats a signal that the terminal has sent already


class Stopped(KeyboardInterrupt):
    """Raised when a signal stops an entry point.

    Args:
        signum: number of the signal.
        message: one line for the user.
    """

    def __init__(self, signum: int = signal.SIGINT, message: str = "stopped") -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def status(self) -> int:
        """Exit status 128 + signum, as shells report it for a process that a signal ended."""
        return 128 + self.signum


def signum_of(stop: KeyboardInterrupt) -> int:
    """Number of the signal that stopped a program; Python's own interrupt is of SIGINT."""
    return stop.signum if isinstance(stop, Stopped) else signal.SIGINT


class StopRequest:
    """Records the first signal, so that a loop can stop between two iterations.

    Attributes:
        signum: number of the signal; 0 before one arrives.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._received = 0.0

    def __call__(self) -> bool:
        """Whether a signal has arrived."""
        return self.signum != 0

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._received = signum, time.monotonic()
        elif not self._is_echo():
            raise Stopped(signum)

    def _is_echo(self) -> bool:
        told = "WORLD_SIZE" in os.environ or os.environ.get(PARENT) == str(os.getppid())
        return told and time.monotonic() - self._received < _ECHO


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise :class:`Stopped` within the block, so that resources are released."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled(stop, [signal.SIGTERM]):
        yield


@contextmanager
def defer_signals() -> Iterator[StopRequest]:
    """Defer the first signal within the block; the second raises :class:`Stopped`."""
    request = StopRequest()
    with _handled(request._handle, SIGNALS):
        yield request


@contextmanager
def _handled(handler: Any, signals: list[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only it receives signals
        yield
        return
    wanted = [n for n in signals if not (n == _hangup and signal.getsignal(n) == signal.SIG_IGN)]
    before = {signum: signal.signal(signum, handler) for signum in wanted}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, signal.SIG_DFL if old is None else old)
