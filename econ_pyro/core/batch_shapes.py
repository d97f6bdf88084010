"""Batch dimensions to the left of a program's own, as Pyro adds them.

Vectorised particles, ``Predictive(parallel=True)``, enumeration and outer plates all give the
values of sites further dimensions on the left. Networks take one batch dimension: programs
broadcast what they are given, flatten it, and restore the shape afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from econ_pyro.errors import EconError


def batch_of(*values: tuple[Tensor, int]) -> torch.Size:
    """The broadcast batch shape of tensors.

    Args:
        *values: each tensor with its number of event dimensions.

    Raises:
        EconError: their batch shapes do not broadcast.
    """
    shapes = [v.shape[: v.dim() - event] for v, event in values]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        got = " and ".join(str(shape) for shape in dict.fromkeys(map(tuple, shapes)))
        raise EconError("batch dimensions that broadcast", got) from None


def flat(value: Tensor, batch: torch.Size, event: int) -> Tensor:
    """A tensor expanded to a batch shape, which becomes one dimension, ``(N, *event)``."""
    if len(batch) == 1 and value.shape[: value.dim() - event] == batch:
        return value
    shape = value.shape[value.dim() - event :]
    return value.expand(*batch, *shape).reshape(-1, *shape)


def restored(value: Tensor, batch: torch.Size) -> Tensor:
    """The inverse of :func:`flat`, ``(*batch, *event)``."""
    return value if len(batch) == 1 else value.unflatten(0, batch)


def stacked(layers: Sequence[Tensor], event: int) -> Tensor:
    """Values of all layers as one tensor, with the layer axis between batch and event.

    Args:
        layers: of batch shapes that broadcast.
        event: number of event dimensions.
    """
    return torch.stack(torch.broadcast_tensors(*layers), -1 - event)
