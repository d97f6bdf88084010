"""Contexts for Pyro programs: without pixel noise, with a local seed, one thread at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK

from econ_pyro.arguments import as_seed
from econ_pyro.errors import EconError

SHAPE, APPEARANCE = "shape", "appearance"
_NOISE = "econ_pyro.noise"  # key in the ``infer`` dictionary of a site
_lock = threading.RLock()
_conflicts = [0]  # number of conflicts between handlers of threads so far


def _after_fork() -> None:
    """Replace the lock, which a thread that does not exist in the forked process may hold."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def noise(kind: str) -> Any:
    """Value of ``infer`` that marks a sample statement as pixel noise.

    Args:
        kind: SHAPE or APPEARANCE.
    """
    return {_NOISE: kind}


class CleanLayers(Messenger):
    """Replace pixel noise by the most likely shape and the mean appearance of each layer.

    ``with CleanLayers(): model.prior(8)`` still samples experts and latents. The noise of Eq. 5
    and the independent Bernoulli variables of Eq. 4 define the likelihood, but make samples noisy.
    Sites are identified by their ``infer`` dictionary (:func:`noise`) and not by name, so that
    they may be renamed by scopes, and other sites of a program are not affected.
    """

    def _pyro_sample(self, msg: Any) -> None:
        kind = msg["infer"].get(_NOISE)
        if kind is None or msg["is_observed"] or msg["done"]:
            return
        mean = msg["fn"].mean
        msg["value"], msg["done"] = mean.round() if kind == SHAPE else mean, True


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock that excludes other threads from Pyro.

    Pyro's handlers, parameters and settings and torch's generators are global. The methods of
    :class:`~econ_pyro.econ.Econ` acquire the lock themselves. To run programs under handlers in
    several threads, acquire it around the handlers and the program: ``with one_at_a_time():
    poutine.trace(econ.guide).get_trace(x, k)``.
    """
    with _lock:
        yield


@contextmanager
def exclusive() -> Iterator[None]:
    """Run a program exclusively, and check that only handlers of its own thread were active.

    Raises:
        EconError: handlers of another thread were active, so that values may be wrong.
    """
    conflicts = _conflicts[0]
    waited = not _lock.acquire(blocking=False)
    if waited:
        _lock.acquire()
    try:
        # handlers installed before waiting saw the sites of another thread, or were removed by it
        if waited and (_PYRO_STACK or conflicts != _conflicts[0]):
            raise _conflict()
        before = list(_PYRO_STACK)
        try:
            yield
        except Exception as error:
            if before != _PYRO_STACK:
                raise _conflict(before) from error
            raise
        if before != _PYRO_STACK:
            raise _conflict(before)
    finally:
        _lock.release()


def _conflict(before: list[Messenger] | None = None) -> EconError:
    if before is not None:  # restore the stack, so that later programs are not affected
        _PYRO_STACK[:] = before
        _conflicts[0] += 1
    return EconError(
        "programs under handlers in one thread at a time, as Pyro's stack of handlers is global",
        "two threads at once",
        "put handlers and program inside `with econ_pyro.core.handlers.one_at_a_time():`",
    )


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Use a local seed, and restore the global generators afterwards.

    Other threads that sample through this package wait until the block ends.

    Args:
        seed: the seed; None: use and advance the global generators.
        device: device whose generator is seeded besides the CPU's.

    Raises:
        EconError: the seed is invalid.
    """
    number = None if seed is None else as_seed(seed)
    cuda = [device] if device.type == "cuda" else []
    with _lock, torch.random.fork_rng(cuda, enabled=number is not None):
        if number is not None:
            # torch.manual_seed would also seed GPUs whose generators are not restored
            torch.default_generator.manual_seed(number)
            for gpu in cuda:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(number)
        yield
