"""Ctrl-C, SIGTERM and a closed terminal: how programs end, and training between two steps."""

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
_hangup = getattr(signal, "SIGHUP", None)  # ignored where nohup says so
_ECHO = 1.0  # seconds in which torchrun passes on what the terminal has sent already


class Stopped(KeyboardInterrupt):
    """What a signal does to an entry point; its exit status is 128 and the signal's number.

    Args:
        number: of the signal.
        message: one line for the person who stopped it.
    """

    def __init__(self, number: int = signal.SIGINT, message: str = "stopped") -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status, as a shell gives it to a process that a signal ended."""
        return 128 + self.number


class Request:
    """Whether somebody asked for an end, to be looked at where it is a good moment to end.

    Attributes:
        number: of the signal that asked; 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._asked = 0.0

    def __call__(self) -> bool:
        """Whether somebody did."""
        return self.number != 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number and not self._echo():
            raise Stopped(number)
        self.number, self._asked = number, time.monotonic()

    def _echo(self) -> bool:
        return "WORLD_SIZE" in os.environ and time.monotonic() - self._asked < _ECHO


@contextmanager
def raised() -> Iterator[None]:
    """Have SIGTERM raise :class:`Stopped` in the block, so that what is open is closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(stop, [signal.SIGTERM]):
        yield


@contextmanager
def requested() -> Iterator[Request]:
    """Have the first signal in the block ask for an end, and the second stop at once."""
    request = Request()
    with _handled(request._ask, SIGNALS):
        yield request


@contextmanager
def _handled(handler: Any, signals: list[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    wanted = [n for n in signals if not (n == _hangup and signal.getsignal(n) == signal.SIG_IGN)]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
