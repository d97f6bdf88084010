"""What a process of ours asks of the system under it."""

from __future__ import annotations

import ctypes
import os

# of malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_memory() -> None:
    """From now on, let no step of learning ask the system for the memory that the last one had.

    Layers of 32 images at the paper's size are some 8 MB each, which glibc would map and unmap
    one by one, and the system fill with zeros: a twentieth of a step on a CPU. Settings in the
    environment (``MALLOC_...``) come first; elsewhere than on glibc this does nothing.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library None
        return
    for option, value in (
        (_MMAP_THRESHOLD, 32 << 20),  # the largest that it takes
        (_TRIM_THRESHOLD, (1 << 31) - 1),
        (_TOP_PAD, 64 << 20),
    ):
        mallopt(option, value)
