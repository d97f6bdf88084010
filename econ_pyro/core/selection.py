"""The outcome of a competition (section 5.2), and the random draws that go into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Draws(NamedTuple):
    """Random numbers of one competition."""

    noise: Tensor
    """Standard normal noise of the latents, shared by the experts, ``(B, T, L)``."""
    gumbel: Tensor
    """Standard Gumbel noise of each expert for each layer, ``(B, T, K)``."""
    occlusion: Tensor | None = None
    """Uniform numbers in [0, 1) of the occlusion augmentation, ``(B, T, 4)``, where it is on."""


class Selection(NamedTuple):
    """What a competition decides about B images, layers front to back."""

    k: Tensor
    """Winning expert of each layer, ``(B, T)`` int64."""
    noise: Tensor
    """Noise of each layer's latent, ``(B, T, L)``."""
    seed_pixel: Tensor | None
    """Pixel from which each region grows, an index into the flattened image, ``(B, T)`` int64;
    -1 for the last layer. None if the competition fixed none: regions of a seeded guide then grow
    from the most salient pixel of each scope."""
    losses: Tensor
    """Competition loss of every expert, ``(B, T, K)`` in nats, without bias; lower is better."""
    region: Tensor
    """Each layer's region as it competed, ``(B, T, 1, H, W)``."""
    evidence: Tensor | None = None
    """True regions, ``(B, T, 1, H, W)``, if they were given."""
    occluder: Tensor | None = None
    """What the encoder sees in front of each layer (colours and mask), ``(B, T, 4, H, W)``."""
    seen: Tensor | None = None
    """What the networks see of the images, ``(B, 3, H, W)``, where it differs from what is to be
    explained: corrupted pictures in training."""

    @property
    def area(self) -> Tensor:
        """Sum of each soft region, ``(B, T)`` in pixels."""
        return self.region.sum((2, 3, 4))


def draw_gumbel(shape: Sequence[int], like: Tensor) -> Tensor:
    """Standard Gumbel noise from torch's global generator."""
    return -torch.empty(tuple(shape), dtype=like.dtype, device=like.device).exponential_().log()
