r"""MONet's generative model p (Burgess et al., 2019), as a Pyro program.

A slot t has a latent, of which one decoder makes an appearance and the logit of a mask. Each pixel
i belongs to one of the T slots:

.. math:: z_t \sim N(0, I), \quad (\mu_t, c_t) = g(z_t), \quad m_i \sim Cat(softmax_t(c_{t,i})),
          \quad x_i \sim \sum_t m_{t,i} N(\mu_{t,i}, \sigma_t^2)

The first slot, meant for the background, has a sigma of its own. Slots are exchangeable but for
it: no slot is in front of another.

In training, the masks are those of the guide (:mod:`econ_pyro.guides.monet`): their mean takes the
place of a sample. The likelihood is then MONet's, a mixture with the attention masks as weights,
and the KL of the site ``masks`` is its mask term.
"""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from econ_pyro.core import sites
from econ_pyro.core.handlers import APPEARANCE, noise
from econ_pyro.core.parameters import program
from econ_pyro.core.slot_masks import PixelMixture, SlotMasks
from econ_pyro.core.tensors import site_value
from econ_pyro.model_config import MonetConfig
from econ_pyro.models.autoregressive import standard
from econ_pyro.models.slots import SlotDecoder, SlotProgram, Slots, decoded


class Monet(SlotProgram[MonetConfig]):
    """A decoder for all slots, and the program that draws images with it.

    Sites are ``z_t`` for t = T..1, ``masks`` and ``x``.

    Args:
        config: number of slots, sizes, sigmas.
    """

    def __init__(self, config: MonetConfig) -> None:
        super().__init__(config)
        self.decoders = nn.ModuleList([SlotDecoder(config.networks, config.size)])

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Appearances and logits of the masks.

        Args:
            z: latents, ``(B, T, L)``.

        Returns:
            ``(B, T, 3, H, W)`` in [0, 1] and ``(B, T, 1, H, W)``.
        """
        return decoded(self.decoders[0], z)

    def latent_prior(self, scenes: int) -> TorchDistribution:
        """p(z_t) = N(0, I), batch ``(B,)``, event ``(L,)``."""
        return standard(self._zero, scenes, self.config.latent_dim)

    def sigma(self, slots: int) -> Tensor:
        """Standard deviation of each slot's pixels, ``(T,)``."""
        first = torch.arange(slots, device=self._zero.device) == 0
        both = (self.config.sigma_background, self.config.sigma)
        background, objects = (self._zero + value for value in both)
        return torch.where(first, background, objects)

    def _statements(self, x: Tensor | None, slots: int, scenes: int) -> Slots:
        with program(decoder=self.decoders), pyro.plate(sites.SCENES, scenes):
            found = []
            for t in sites.front_to_back(slots):
                z_t = pyro.sample(sites.z(t), self.latent_prior(scenes))
                event = (self.config.latent_dim,)
                found.append(site_value(sites.z(t), z_t, scenes, event, self._zero))
            z = torch.stack(found, 1)  # (B, T, L)
            mean, logits = self.decode(z)
            masks = SlotMasks(logits.log_softmax(1))
            m = pyro.sample(sites.MASKS, masks)
            mixture = PixelMixture(m, mean, self.sigma(slots))
            image = pyro.sample(sites.IMAGE, mixture, obs=x, infer=noise(APPEARANCE))
        return Slots(image, m, mean, logits.sigmoid(), z)
