"""What the models of slots have in common: their arguments, what they return, a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar, cast

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.accel.compile import run
from econ_pyro.core import sites
from econ_pyro.core.handlers import APPEARANCE, noise
from econ_pyro.core.input_images import program_images
from econ_pyro.core.parameters import program
from econ_pyro.core.slot_masks import DecodedMasks
from econ_pyro.core.tensors import site_value
from econ_pyro.model_config import SceneModelConfig
from econ_pyro.models.decoder import SpatialBroadcastDecoder

SizesT = TypeVar("SizesT", bound=SceneModelConfig)


class Slots(NamedTuple):
    """What a program made of its slots; the slot axis in the order in which they take pixels."""

    image: Tensor
    """The image that was observed, or drawn, ``(B, 3, H, W)``."""
    mask: Tensor
    """Share of each slot in each pixel, ``(B, T, 1, H, W)``; sums to 1 over slots."""
    mean: Tensor
    """Appearances, ``(B, T, 3, H, W)`` in [0, 1]."""
    shape: Tensor
    """What comes nearest to a slot's unoccluded shape, ``(B, T, 1, H, W)`` in [0, 1]."""
    z: Tensor
    """Latents, ``(B, T, L)``."""


class SlotProgram(nn.Module, ABC, Generic[SizesT]):
    """A model p of slots, as a Pyro program of images and a number of slots.

    Args:
        config: number of slots, sizes.
    """

    def __init__(self, config: SizesT) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self._zero: Tensor

    def forward(self, x: Tensor | None = None, slots: int | None = None, scenes: int = 1) -> Slots:
        """The program.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1]; drawn if not given.
            slots: number of slots T; the configuration's if not given.
            scenes: number of images B, where they are drawn.

        Raises:
            EconError: a value has another shape or type, or a number makes no sense.
        """
        slots = self.config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        if x is not None:
            x = program_images(x, self.config.size, self._zero)
            scenes = len(x)
        return self._statements(x, slots, arguments.as_int("scenes", scenes))

    def prior(self, scenes: int = 1, slots: int | None = None) -> Slots:
        """The same program without an image.

        Args:
            scenes: number of scenes B.
            slots: number of slots T; the configuration's if not given.
        """
        return self(None, slots, scenes)

    @abstractmethod
    def _statements(self, x: Tensor | None, slots: int, scenes: int) -> Slots:
        """The program's sample statements, for arguments that have been checked."""


class SlotDecoder(SpatialBroadcastDecoder):
    """ECON's decoder, before the sigmoid: masks of several slots are normalised together."""

    def forward(self, z: Tensor) -> Tensor:
        """Logits of RGB and the logit of the mask, ``(n, 4, H, W)``, for latents ``(n, L)``."""
        return self.logits(z)


def decoded(network: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """Appearances in [0, 1], ``(B, T, 3, H, W)``, and logits of masks, ``(B, T, 1, H, W)``.

    Args:
        network: latents ``(n, L)`` to four channels of logits, such as :class:`SlotDecoder`.
        z: latents, ``(B, T, L)``.
    """
    drawn = run(network, z.flatten(0, 1)).unflatten(0, z.shape[:2])
    colours, logits = drawn.split([3, 1], 2)
    return colours.sigmoid(), logits


class UnorderedSlots(SlotProgram[SizesT]):
    """Slots that are alike but for their latents: one decoder, and masks that it alone decides.

    Sites are ``z_t`` for t = T..1, ``masks`` and ``x``.

    Args:
        config: number of slots, sizes.
    """

    def __init__(self, config: SizesT) -> None:
        super().__init__(config)
        self.sizes = cast(Any, config)  # both kinds have a latent_dim and networks
        self.decoders = nn.ModuleList([SlotDecoder(self.sizes.networks, config.size)])

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Appearances in [0, 1], ``(B, T, 3, H, W)``, and logits of masks, ``(B, T, 1, H, W)``.

        Args:
            z: latents, ``(B, T, L)``.
        """
        return decoded(self.decoders[0], z)

    @abstractmethod
    def latent_prior(self, scenes: int) -> TorchDistribution:
        """p(z_t), batch ``(B,)``, event ``(L,)``."""

    @abstractmethod
    def mixture(self, mean: Tensor, m: Tensor) -> TorchDistribution:
        """p(x | z).

        Args:
            mean: appearances, ``(B, T, 3, H, W)``.
            m: masks, ``(B, T, 1, H, W)``.
        """

    def _statements(self, x: Tensor | None, slots: int, scenes: int) -> Slots:
        event = (self.sizes.latent_dim,)
        with program(decoder=self.decoders), pyro.plate(sites.SCENES, scenes):
            found = []
            for t in sites.front_to_back(slots):
                z_t = pyro.sample(sites.z(t), self.latent_prior(scenes))
                found.append(site_value(sites.z(t), z_t, scenes, event, self._zero))
            z = torch.stack(found, 1)  # (B, T, L)
            mean, logits = self.decode(z)
            masks = logits.softmax(1)
            shares = DecodedMasks(lambda: masks, masks.shape[:1], masks.shape[1:])
            m = pyro.sample(sites.MASKS, shares)
            likelihood = self.mixture(mean, m)
            image = pyro.sample(sites.IMAGE, likelihood, obs=x, infer=noise(APPEARANCE))
        return Slots(image, m, mean, m, z)
