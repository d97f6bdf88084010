"""What is known of scenes beyond their images, and what may be unknown.

Visible regions are the least that counts as ground truth. Full masks (with them the depth order)
and classes may be missing: they are ``None`` then, and the scores that need them are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from econ_pyro.errors import EconError


class Truth(Protocol):
    """Ground truth of B scenes with up to N objects."""

    @property
    def image(self) -> Tensor:
        """``(B, 3, H, W)`` float32 in [0, 1]."""

    @property
    def region(self) -> Tensor:
        """Visible regions, disjoint, ``(B, N, H, W)`` bool; the rest is background."""

    @property
    def mask(self) -> Tensor | None:
        """Full masks, occluded parts included, ``(B, N, H, W)`` bool, slots front to back."""

    @property
    def label(self) -> Tensor | None:
        """Class of each object, ``(B, N)`` int64; -1 is an empty slot."""

    def layers(self, steps: int) -> Tensor:
        """Regions as the model's layers, ``(B, T, 1, H, W)`` in {0, 1}, the background last."""


@dataclass(frozen=True)
class PartialTruth:
    """Ground truth from files, as far as it goes; see :class:`Truth` for the shapes."""

    image: Tensor
    region: Tensor
    mask: Tensor | None = None
    label: Tensor | None = None

    def layers(self, steps: int) -> Tensor:
        """True regions as layers; see :func:`layers_of`."""
        return layers_of(self.region, self.region.flatten(2).any(2), steps)


def layers_of(region: Tensor, there: Tensor, steps: int) -> Tensor:
    """True regions as the model's layers, in the order of the slots, with the background last.

    Args:
        region: visible regions, ``(B, N, H, W)`` bool.
        there: slots that hold an object, ``(B, N)`` bool.
        steps: number of layers T. Those between the last object and the background are empty.

    Returns:
        ``(B, T, 1, H, W)`` float32 in {0, 1}; sums to 1 over T.

    Raises:
        EconError: if some scene has more than T - 1 objects.
    """
    most = int(there.sum(1).max()) if there.numel() else 0
    if steps < most + 1:
        raise EconError(
            f"at least {most + 1} steps, for {most} objects and the background",
            str(steps),
            "use more steps or scenes with fewer objects",
        )
    b, _, height, width = region.shape
    order = torch.argsort((~there).long(), dim=1, stable=True)[:, : steps - 1]
    objects = region.gather(1, order[:, :, None, None].expand(-1, -1, height, width))
    out = torch.zeros(b, steps, 1, height, width, device=region.device)
    out[:, : objects.shape[1], 0] = objects.float()
    out[:, -1, 0] = (~region.any(1)).float()
    return out
