"""Settings of glibc's memory allocator; no effect on other systems."""

from __future__ import annotations

import ctypes
import os

# constants of malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def retain_memory() -> None:
    """Keep freed memory in the process, so that training steps reuse it.

    Activations of 32 images at the paper's size have about 8 MB each. By default, glibc maps and
    unmaps each of them and the system zeroes the pages, which costs 5% of a training step on a
    CPU. Environment variables ``MALLOC_*`` take precedence.
    """
    _set(
        (_MMAP_THRESHOLD, 32 << 20),  # the maximum
        (_TRIM_THRESHOLD, (1 << 31) - 1),
        (_TOP_PAD, 64 << 20),
    )


def return_memory() -> None:
    """Return freed memory to the system, for processes that are mostly idle.

    Also limits the number of heaps to two, as memory in the heap of an idle thread is not
    returned. Environment variables ``MALLOC_*`` take precedence. See also :func:`trim`.
    """
    _set(
        (_MMAP_THRESHOLD, 128 << 10),
        (_TRIM_THRESHOLD, 128 << 10),
        (_TOP_PAD, 128 << 10),
        (_ARENA_MAX, 2),
    )


def trim() -> None:
    """Return the free memory of all heaps to the system; takes about a millisecond."""
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
