"""Parallelism over CPU cores: independent tasks in parallel, with one thread per operation.

torch uses several cores by splitting every operation among threads that synchronise at its end
and spin while waiting. On a machine shared with one other busy process, this slows training down
thirty times, as threads spin for others that have no core. The entry points therefore use one
thread per operation, and run whole tasks in parallel: networks of experts
(:mod:`econ_pyro.accel.parallel_networks`), batches of images to decompose. Tasks synchronise only
when all are done.

Results do not depend on which thread runs a task: they are bit-identical for any number of cores.
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

THREADS_VARIABLE = "OMP_NUM_THREADS"
"""Environment variable that sets the number of threads of numerical programs."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_cores = 1  # entry points choose; a library should not
_pool: ThreadPoolExecutor | None = None
_thread = threading.local()


def available_cores(environment: Mapping[str, str] = os.environ, quota: Path = _QUOTA) -> int:
    """Number of cores that this process may use.

    Args:
        environment: ``OMP_NUM_THREADS`` takes precedence if it is a positive integer; torchrun
            sets it to 1 for each of its processes.
        quota: the cgroup file of the CPU limit, ``MICROSECONDS PERIOD`` or ``max ...``.
    """
    threads = environment.get(THREADS_VARIABLE, "")
    if threads.isdecimal() and int(threads) > 0:
        return int(threads)
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        share, period = quota.read_text().split()[:2]
        return max(1, min(cores, int(share) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": no limit
        return cores


def use_cores(cores: int | None = None, intra_op: bool = False) -> int:
    """Set the number of parallel tasks, with one thread per operation.

    To be called at the start of a program, as it sets torch's global number of threads.

    Args:
        cores: number of cores; default: all available cores.
        intra_op: parallelise within operations instead, and run one task at a time. For compiled
            graphs, which are not split into tasks.

    Returns:
        The number of cores.

    Raises:
        EconError: ``cores`` is not a positive integer.
    """
    global _cores, _pool
    cores = available_cores() if cores is None else cores
    if isinstance(cores, bool) or not isinstance(cores, int) or cores < 1:
        raise EconError("a number of cores of at least 1", repr(cores))
    _cores = 1 if intra_op else cores
    if _pool is not None:
        _pool.shutdown()
        _pool = None
    torch.set_num_threads(cores if intra_op else 1)
    return cores


def used_cores() -> int:
    """Number of tasks that run in parallel."""
    return _cores


def description() -> str:
    """The current setting, as a line for a log."""
    threads = torch.get_num_threads()
    if threads > 1:
        return f"{threads} threads within each operation (slow beside other busy programs)"
    if _cores == 1:
        return "1 core, one thread per operation"
    return f"{_cores} cores, one thread per operation ({THREADS_VARIABLE} sets another number)"


@contextmanager
def single_threaded() -> Iterator[None]:
    """Within the block, :func:`parallel_map` in this thread runs serially."""
    before = getattr(_thread, "busy", False)
    _thread.busy = True
    try:
        yield
    finally:
        _thread.busy = before


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply a function to all items in parallel, including the calling thread.

    Nested calls run serially in the thread of the outer task. ``function`` has to set torch's
    thread-local modes (gradients, autocast) itself.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: an exception of ``function``; the remaining items are then skipped.
    """
    tasks = list(items)
    workers = min(_cores, len(tasks)) - 1
    if workers < 1 or getattr(_thread, "busy", False):
        return [function(item) for item in tasks]
    results: list[Any] = [None] * len(tasks)
    pending = iter(range(len(tasks)))

    def run() -> None:
        try:
            for i in pending:
                results[i] = function(tasks[i])
        except BaseException:  # including KeyboardInterrupt: no thread begins another task
            for _ in pending:
                pass
            raise

    futures: list[Future[None]] = [_executor().submit(run) for _ in range(workers)]
    try:
        with single_threaded():
            run()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
    for future in futures:
        if not future.cancelled():
            future.result()
    return results


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_cores - 1, "econ-pyro", _initialise_worker)
    return _pool


def _after_fork() -> None:
    """Reset the state in a forked process, which does not inherit threads."""
    global _pool
    _pool = None
    _thread.busy = False


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _initialise_worker() -> None:
    _thread.busy = True
    torch.set_num_threads(1)
