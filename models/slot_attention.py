r"""The decoder of Slot Attention (Locatello et al., 2020), as a Pyro program.

One decoder makes an appearance and the logit of a mask of each slot; the image is their blend:

.. math:: (\mu_t, c_t) = g(z_t), \quad m_i = softmax_t(c_{t,i}), \quad
          x_i \sim N(\sum_t m_{t,i} \mu_{t,i}, \sigma^2 I)

so that -log p(x | z) is the squared error of an autoencoder. Slots have no prior: the model
explains images, and draws an image of given slots (``poutine.condition``), but no new scenes.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from econ_pyro.core import sites
from econ_pyro.core.handlers import APPEARANCE, noise
from econ_pyro.core.parameters import program
from econ_pyro.core.slot_masks import DecodedMasks, PixelBlend
from econ_pyro.core.tensors import site_value
from econ_pyro.errors import EconError
from econ_pyro.model_config import SlotAttentionConfig
from econ_pyro.models.slots import SlotDecoder, SlotProgram, Slots, decoded


class NoPrior(TorchDistribution):
    """An improper density of 1 everywhere, for latents that have to be given.

    Args:
        batch_shape: of the latents.
        event_shape: of the latents.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(
        self,
        batch_shape: torch.Size,
        event_shape: torch.Size,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NoPrior:
        """A copy with a larger batch shape."""
        return type(self)(torch.Size(batch_shape), self.event_shape, False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refuse.

        Raises:
            EconError: always.
        """
        raise EconError(
            "a generative model, to sample scenes",
            "slot-attention, whose slots have no prior",
            "sample a genesis run, or set the slots with poutine.condition",
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """0, of shape ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        return value.new_zeros(value.shape[: value.dim() - len(self.event_shape)])


class SlotAttention(SlotProgram[SlotAttentionConfig]):
    """A decoder for all slots, and the program that explains images with it.

    Sites are ``z_t`` for t = T..1, ``masks`` and ``x``.

    Args:
        config: number of slots, sizes, sigma.
    """

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__(config)
        self.decoders = nn.ModuleList([SlotDecoder(config.networks, config.size)])

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Appearances in [0, 1], ``(B, T, 3, H, W)``, and masks, ``(B, T, 1, H, W)``.

        Args:
            z: slots, ``(B, T, L)``.
        """
        colours, logits = decoded(self.decoders[0], z)
        return colours, logits.softmax(1)

    def _statements(self, x: Tensor | None, slots: int, scenes: int) -> Slots:
        zero, event = self._zero, (self.config.latent_dim,)
        prior = NoPrior(torch.Size((scenes,)), torch.Size(event))
        with program(decoder=self.decoders), pyro.plate(sites.SCENES, scenes):
            found = []
            for t in sites.front_to_back(slots):
                z_t = pyro.sample(sites.z(t), prior)
                found.append(site_value(sites.z(t), z_t, scenes, event, zero))
            z = torch.stack(found, 1)  # (B, T, L)
            mean, masks = self.decode(z)
            m = pyro.sample(
                sites.MASKS, DecodedMasks(lambda: masks, masks.shape[:1], masks.shape[1:])
            )
            blend = PixelBlend(m, mean, (zero + self.config.sigma).expand(slots))
            image = pyro.sample(sites.IMAGE, blend, obs=x, infer=noise(APPEARANCE))
        return Slots(image, m, mean, m, z)
