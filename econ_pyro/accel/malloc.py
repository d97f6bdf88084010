"""What a process of ours asks of the system under it."""

from __future__ import annotations

import ctypes
import os

# of malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_memory() -> None:
    """From now on, let no step of learning ask the system for the memory that the last one had.

    Layers of 32 images at the paper's size are some 8 MB each, which glibc would map and unmap
    one by one, and the system fill with zeros: a twentieth of a step on a CPU. Settings in the
    environment (``MALLOC_...``) come first; elsewhere than on glibc this does nothing.
    """
    _set(
        (_MMAP_THRESHOLD, 32 << 20),  # the largest that it takes
        (_TRIM_THRESHOLD, (1 << 31) - 1),
        (_TOP_PAD, 64 << 20),
    )


def share_memory() -> None:
    """The other way round, for a process that waits most of the time: what is freed goes back.

    Threads share two heaps: what lies in the heap of a thread that waits is not given back. As
    with :func:`keep_memory`, the environment comes first. See also :func:`trim`.
    """
    _set(
        (_MMAP_THRESHOLD, 128 << 10),
        (_TRIM_THRESHOLD, 128 << 10),
        (_TOP_PAD, 128 << 10),
        (_ARENA_MAX, 2),
    )


def trim() -> None:
    """Give the system what is free between the objects of all heaps: a millisecond."""
    if (libc := _libc()) is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _set(*options: tuple[int, int]) -> None:
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    if (libc := _libc()) is None or not hasattr(libc, "mallopt"):
        return
    for option, value in options:
        libc.mallopt(option, value)


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # TypeError: Windows has no library None
        return None
