"""A second scene model, tiny: it touches nothing but this file and its registration.

Slots with a learnt colour each share the pixels out by how near they are to it; there are no
experts, no competition and no shapes beyond the regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from econ_pyro.core.compositing import scopes
from econ_pyro.core.distributions import PixelNoise, pixel_errors
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms
from econ_pyro.infer.scene_model import SceneModel, register
from econ_pyro.model_config import SceneModelConfig

PIXEL_NOISE = PixelNoise(0.2)


@dataclass(frozen=True)
class MosaicConfig(SceneModelConfig):
    """A mosaic of constant colours."""

    kind: Literal["mosaic"] = "mosaic"
    """Which scene model."""


class Drawn(NamedTuple):
    image: Tensor
    k: Tensor
    shape: Tensor
    appearance: Tensor


class Mosaic(SceneModel):
    """Pixels go to the slot with the nearest colour."""

    def __init__(self, config, device="cpu", names=None):
        super().__init__(config, names)
        generator = torch.Generator().manual_seed(config.seed)
        colours = torch.rand(config.model.num_slots, 3, generator=generator)
        self.colour = nn.Parameter(colours.to(device))

    def _layers(self, x: Tensor, slots: int) -> tuple[Tensor, Tensor, Terms]:
        colour = self.colour[torch.arange(slots, device=x.device) % len(self.colour)]
        mean = colour[None, :, :, None, None].expand(len(x), -1, -1, *x.shape[2:])
        errors = pixel_errors(x, mean, PIXEL_NOISE)  # (B, T, 1, H, W)
        r = (-errors).softmax(1)
        zero = errors.new_zeros(errors.shape[:2])
        return r, mean, Terms((r * errors).sum((2, 3, 4)), zero, zero)

    def loss_terms(self, x, evidence=None):
        return self._layers(x, self.config.model.num_slots)[2]

    @torch.no_grad()
    def decompose(self, images, slots=None, *, evidence=None):
        slots = slots or self.config.model.num_slots
        r, mean, terms = self._layers(images, slots)
        k = torch.zeros(r.shape[:2], dtype=torch.long)
        z = mean[:, :, :, 0, 0]
        losses = terms.x[:, :, None]
        return Decomposition(images, k, scopes(r), r, mean, r, z, terms, losses, k - 1)

    @torch.no_grad()
    def sample(self, n=1, *, seed=None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        slots, size = self.config.model.num_slots, self.config.model.size
        r = torch.rand(n, slots, 1, size, size, generator=generator).softmax(1)
        mean = self.colour[None, :, :, None, None].expand(n, -1, -1, size, size)
        k = torch.zeros(n, slots, dtype=torch.long)
        return Drawn((r * mean).sum(1), k, r.round(), mean)


def register_mosaic() -> None:
    """Make it known."""
    register("mosaic", MosaicConfig, Mosaic)
