"""The processor's cores: independent pieces of work side by side, one thread per operation.

Torch's own way to use several cores is to split every operation among threads that wait for one
another at its end, and spin while they wait. Alone on a machine that is a gain. Beside one other
busy process it is a collapse: whoever waits for a thread that has no core burns a core itself, and
training slows down thirty times. So the entry points give each operation one thread, and hand
whole pieces of work to the cores: experts' networks (:mod:`econ_pyro.accel.side_by_side`), batches
of images to decompose. Pieces wait for nobody until all are done.

What a piece computes does not depend on which thread runs it: results are the same to the last bit
on any number of cores, idle or busy.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from econ_pyro.errors import EconError

T = TypeVar("T")
R = TypeVar("R")

OWN_NUMBER = "OMP_NUM_THREADS"
"""Environment variable by which people set the number of threads of numerical programs."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_cores = 1  # a library leaves the choice to the program that uses it
_pool: ThreadPoolExecutor | None = None
_thread = threading.local()


def available_cores(environment: Mapping[str, str] = os.environ, quota: Path = _QUOTA) -> int:
    """Cores that this process may use.

    Args:
        environment: ``OMP_NUM_THREADS`` in it, a whole number, goes before all else; torchrun sets
            it to 1 for each of its processes.
        quota: the file by which Linux limits a container, ``MICROSECONDS PERIOD`` or ``max ...``.
    """
    own = environment.get(OWN_NUMBER, "")
    if own.isdecimal() and int(own) > 0:
        return int(own)
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        share, period = quota.read_text().split()[:2]
        return max(1, min(cores, int(share) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file; "max": no limit
        return cores


def use_cores(cores: int | None = None, within: bool = False) -> int:
    """From now on, have pieces of work side by side and one thread per operation.

    For the start of a program: the number of threads per operation is torch's, and global.

    Args:
        cores: how many to use; all available ones if not given.
        within: have one piece at a time instead, and as many threads within each operation. For
            compiled graphs, in which there are no pieces.

    Returns:
        The number of cores.

    Raises:
        EconError: it is no number of cores.
    """
    global _cores, _pool
    cores = available_cores() if cores is None else cores
    if isinstance(cores, bool) or not isinstance(cores, int) or cores < 1:
        raise EconError("a number of cores of at least 1", repr(cores))
    _cores = 1 if within else cores
    if _pool is not None:
        _pool.shutdown()
        _pool = None
    torch.set_num_threads(cores if within else 1)
    return cores


def used_cores() -> int:
    """How many pieces of work are done at a time."""
    return _cores


def description() -> str:
    """What was chosen, as a line for a log."""
    threads = torch.get_num_threads()
    if threads > 1:
        return f"{threads} threads within each operation (slow beside other busy programs)"
    if _cores == 1:
        return "1 core, one thread per operation"
    return f"{_cores} cores, one thread per operation ({OWN_NUMBER} sets another number)"


@contextmanager
def alone() -> Iterator[None]:
    """Within the block, this thread does all of its work itself."""
    before = getattr(_thread, "busy", False)
    _thread.busy = True
    try:
        yield
    finally:
        _thread.busy = before


def each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Results of ``work`` for each item, in order, computed side by side on the cores.

    The calling thread works, too. Within a piece of work everything is done by its own thread, so
    that pieces can have pieces. Modes that torch keeps per thread (gradients, autocast) are for
    ``work`` to set.

    Raises:
        Exception: what ``work`` raised for one of the items; others may then not be done.
    """
    given = list(items)
    helpers = min(_cores, len(given)) - 1
    if helpers < 1 or getattr(_thread, "busy", False):
        return [work(item) for item in given]
    results: list[Any] = [None] * len(given)
    waiting = iter(range(len(given)))

    def take() -> None:
        try:
            for i in waiting:
                results[i] = work(given[i])
        except BaseException:  # an error, or Ctrl-C: nobody begins another one
            for _ in waiting:
                pass
            raise

    started: list[Future[None]] = [_helpers().submit(take) for _ in range(helpers)]
    try:
        with alone():
            take()
    finally:
        for future in started:
            future.cancel()
        wait(started)
    for future in started:
        if not future.cancelled():
            future.result()
    return results


def _helpers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_cores - 1, "econ-pyro", _begin)
    return _pool


def _after_fork() -> None:
    """A forked process has none of the threads."""
    global _pool
    _pool = None
    _thread.busy = False


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _begin() -> None:
    _thread.busy = True
    torch.set_num_threads(1)
