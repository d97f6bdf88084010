"""Who explains what: the outcome of a competition, and the luck in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Winners(NamedTuple):
    """What a competition decides of B images, layers front to back."""

    k: Tensor
    """Winning expert of each layer, ``(B, T)`` int64."""
    noise: Tensor
    """Of the latents that competed, ``(B, T, L)``."""
    seed: Tensor
    """Pixel that each region grows from, as an index into the flattened image, ``(B, T)`` int64;
    -1 where there is none."""
    scores: Tensor
    """Of every expert, ``(B, T, K)`` in nats, handicaps left out; lower is better."""
    region: Tensor
    """Of each layer, as it competed, ``(B, T, 1, H, W)``."""

    @property
    def area(self) -> Tensor:
        """Sum of each soft region, ``(B, T)`` in pixels."""
        return self.region.sum((2, 3, 4))


def draw_gumbel(shape: Sequence[int], like: Tensor) -> Tensor:
    """Standard Gumbel noise from torch's global generator: the luck of a competition."""
    return -torch.empty(tuple(shape), dtype=like.dtype, device=like.device).exponential_().log()


def draw_winners(
    scores: Tensor,
    temperature: float,
    handicap: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> Tensor:
    """Winners: P(k) ~ exp(-(score + handicap) / temperature).

    Args:
        scores: ``(..., K)`` in nats, lower is better.
        temperature: 0 takes the best.
        handicap: nats added to each expert's scores, ``(K,)``.
        gumbel: the luck of each expert, ``(..., K)``; drawn if not given.

    Returns:
        ``(...)`` int64.
    """
    if handicap is not None:
        scores = scores + handicap
    if temperature == 0:
        return scores.argmin(-1)
    if gumbel is None:
        gumbel = draw_gumbel(scores.shape, scores)
    return (gumbel - scores / temperature).argmax(-1)
