"""Ground truth of scenes.

Visible regions are always present. Amodal masks (which imply the depth order) and classes may be
unknown: they are then ``None``, and metrics that need them are omitted.
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
        """Visible regions, disjoint, ``(B, N, H, W)`` bool; all other pixels are background."""

    @property
    def mask(self) -> Tensor | None:
        """Amodal masks, including occluded parts, ``(B, N, H, W)`` bool, front to back."""

    @property
    def label(self) -> Tensor | None:
        """Class of each object, ``(B, N)`` int64; -1 for an empty slot."""

    def layers(self, slots: int) -> Tensor:
        """Regions of the model's layers, ``(B, T, 1, H, W)`` in {0, 1}, background last."""


@dataclass(frozen=True)
class PartialTruth:
    """Ground truth from files, possibly incomplete; see :class:`Truth` for the shapes."""

    image: Tensor
    region: Tensor
    mask: Tensor | None = None
    label: Tensor | None = None

    def layers(self, slots: int) -> Tensor:
        """True regions of the layers; see :func:`regions_as_layers`."""
        return regions_as_layers(self.region, self.region.flatten(2).any(2), slots)


def regions_as_layers(region: Tensor, occupied: Tensor, slots: int) -> Tensor:
    """Arrange true regions as the model's layers, in slot order with the background last.

    Args:
        region: visible regions, ``(B, N, H, W)`` bool.
        occupied: slots that contain an object, ``(B, N)`` bool.
        slots: number of layers T. Layers between the last object and the background are empty.

    Returns:
        ``(B, T, 1, H, W)`` float32 in {0, 1}; sums to 1 over T.

    Raises:
        EconError: a scene has more than T - 1 objects.
    """
    most = int(occupied.sum(1).max()) if occupied.numel() else 0
    if slots < most + 1:
        raise EconError(
            f"at least {most + 1} layers, for {most} objects and the background",
            str(slots),
            "use more layers or scenes with fewer objects",
        )
    b, _, height, width = region.shape
    order = torch.argsort((~occupied).long(), dim=1, stable=True)[:, : slots - 1]
    objects = region.gather(1, order[:, :, None, None].expand(-1, -1, height, width))
    out = torch.zeros(b, slots, 1, height, width, device=region.device)
    out[:, : objects.shape[1], 0] = objects.float()
    out[:, -1, 0] = (~region.any(1)).float()
    return out
