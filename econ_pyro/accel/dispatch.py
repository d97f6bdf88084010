"""Which images go to which network of an ensemble, in shapes that kernels and graphs like.

oneDNN builds a kernel for every new batch size, so groups are padded to a multiple of GROUP. A
CUDA graph replays fixed shapes: while one is captured, each network has a fixed *capacity*, of
which the first slots hold its own images and the outputs of the rest are dropped, and the networks
run on streams of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from econ_pyro.accel.compile import compilable

GROUP = 4


class Capacity(NamedTuple):
    """How many inputs each network can take."""

    images: int
    """In ``forward_each``: the most images that any network sees."""
    layers: int
    """In ``forward_selected``: the most layers that any network won."""


_capacity: ContextVar[Capacity | None] = ContextVar("capacity", default=None)


@contextmanager
def fixed_capacity(capacity: Capacity) -> Iterator[None]:
    """Within the block, networks of an ensemble run at a fixed capacity."""
    before = _capacity.set(capacity)
    try:
        yield
    finally:
        _capacity.reset(before)


def current_capacity() -> Capacity | None:
    """The capacity of the block that is running, if any."""
    return _capacity.get()


def padded(rows: Tensor) -> Tensor:
    """Indices repeated up to a multiple of GROUP."""
    return torch.cat([rows, rows[:1].expand(-len(rows) % GROUP)]) if len(rows) % GROUP else rows


@partial(compilable, dynamic=True)
def slots(k: Tensor, capacity: int, experts: int) -> tuple[Tensor, Tensor]:
    """Assign images to the slots of each network, one network's slots after another's.

    Args:
        k: networks that see each image, ``(B, N)``.
        capacity: slots of each network.
        experts: their number K.

    Returns:
        Index of the image in each slot, ``(K capacity,)``, and of each k's slot, ``(B N,)``.
    """
    numbers = torch.arange(experts, device=k.device)
    own = (k[:, :, None] == numbers).any(1)  # (B, K)
    before = own.T.contiguous().cumsum(1).T - 1  # along memory, which is faster
    slot = torch.where(own & (before < capacity), capacity * numbers + before, capacity * experts)
    image = k.new_zeros(capacity * experts + 1)  # the last one collects pairs without a slot
    rows = torch.arange(k.shape[0], device=k.device)[:, None].expand_as(slot)
    image = image.scatter(0, slot.flatten(), rows.flatten())
    return image[:-1], slot.gather(1, k).flatten().clamp_max(capacity * experts - 1)


@cache
def streams(n: int) -> list[torch.cuda.Stream]:
    """One stream for each expert, the same for its encoder, decoder and attention."""
    return [torch.cuda.Stream() for _ in range(n)]
