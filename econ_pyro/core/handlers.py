"""Ways to run programs: without pixel noise, from a seed of their own, one thread at a time."""

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
_NOISE = "econ_pyro.noise"  # key in a site's infer
_lock = threading.RLock()
_clashes = [0]  # of threads' handlers, since the start


def _after_fork() -> None:
    """A forked process has none of the threads, one of which may have held the lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def noise(kind: str) -> Any:
    """What a sample statement says of itself, as ``infer``: it draws pixels.

    Args:
        kind: SHAPE or APPEARANCE.
    """
    return {_NOISE: kind}


class CleanLayers(Messenger):
    """Paint without pixel noise: the most likely shape and the mean appearance of each layer.

    ``with CleanLayers(): model.prior(8)`` still draws classes and latents. The pixel noise of
    Eq. 5 and the independent coin of each shape's pixel (Eq. 4) are likelihoods to learn with,
    not pictures to look at. Sites are told by what the prior says of them (:func:`noise`), not
    by their names: others of the program are left alone, and scopes may rename ours.
    """

    def _pyro_sample(self, msg: Any) -> None:
        kind = msg["infer"].get(_NOISE)
        if kind is None or msg["is_observed"] or msg["done"]:
            return
        mean = msg["fn"].mean
        msg["value"], msg["done"] = mean.round() if kind == SHAPE else mean, True


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep other threads out of Pyro while the block runs.

    Pyro's handlers, its parameters and settings, and torch's generators are one for all threads.
    What an :class:`~econ_pyro.econ.Econ` does takes this lock by itself. Whoever runs programs
    under handlers in several threads puts it around both: ``with one_at_a_time():
    poutine.trace(econ.guide).get_trace(x, k)``.
    """
    with _lock:
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run a program while no other thread runs one, under its own thread's handlers alone.

    Raises:
        EconError: another thread's handlers came among them, so that values may be wrong.
    """
    clashes = _clashes[0]
    waited = not _lock.acquire(blocking=False)
    if waited:
        _lock.acquire()
    try:
        # handlers around a program were there before it could wait: they saw another's sites, or
        # the other thread had to take them away
        if waited and (_PYRO_STACK or clashes != _clashes[0]):
            raise _disturbed()
        before = list(_PYRO_STACK)
        try:
            yield
        except Exception as error:
            if before != _PYRO_STACK:
                raise _disturbed(before) from error
            raise
        if before != _PYRO_STACK:
            raise _disturbed(before)
    finally:
        _lock.release()


def _disturbed(before: list[Messenger] | None = None) -> EconError:
    if before is not None:  # or what the two left there would meet whatever runs next
        _PYRO_STACK[:] = before
        _clashes[0] += 1
    return EconError(
        "programs run under handlers by one thread at a time, as Pyro's stack of handlers is "
        "global",
        "two threads at once",
        "put handlers and program inside `with econ_pyro.core.handlers.one_at_a_time():`",
    )


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from a seed of one's own, and leave the global generators as they were.

    Other threads that draw from them through this package wait meanwhile.

    Args:
        seed: None draws from the global generators, as ever.
        device: whose generator counts beside the CPU's.

    Raises:
        EconError: there is no such seed.
    """
    number = None if seed is None else as_seed(seed)
    cuda = [device] if device.type == "cuda" else []
    with _lock, torch.random.fork_rng(cuda, enabled=number is not None):
        if number is not None:
            # torch.manual_seed would seed GPUs whose generators are not put back
            torch.default_generator.manual_seed(number)
            for of in cuda:
                with torch.cuda.device(of):
                    torch.cuda.manual_seed(number)
        yield
