r"""The generative model p of GENESIS (Engelcke et al., 2020), as a Pyro program.

Each slot t has a mask latent, which depends on those of earlier slots, and a component latent,
which depends on its mask latent:

.. math:: p(z) = \prod_t p(z^m_t | z^m_{>t}) \, p(z^c_t | z^m_t), \quad
          m_t = s_t \sigma(a(z^m_t)), \quad s_{t-1} = s_t (1 - \sigma(a(z^m_t))), \quad m_1 = s_1

.. math:: x_i \sim \sum_t m_{t,i} N(\mu_i(z^c_t), \sigma^2)

Masks follow from the latents: the site ``masks`` has no choice. Slots are drawn one after another,
so that a scene's slots can fit one another.
"""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from econ_pyro.accel.compile import run
from econ_pyro.core import sites
from econ_pyro.core.gated_conv import GatedDecoder
from econ_pyro.core.handlers import APPEARANCE, noise
from econ_pyro.core.parameters import program
from econ_pyro.core.slot_masks import DecodedMasks, PixelMixture, fractions, stick_breaking
from econ_pyro.core.tensors import site_value
from econ_pyro.model_config import ExpertConfig, GenesisConfig
from econ_pyro.models.autoregressive import AutoregressivePrior, bounded, sample_slots
from econ_pyro.models.decoder import ConvStack, SpatialBroadcastDecoder
from econ_pyro.models.slots import SlotProgram, Slots


class ComponentDecoder(SpatialBroadcastDecoder):
    """ECON's decoder without a shape: RGB in [0, 1], ``(n, 3, H, W)``."""

    def _make_layers(self, config: ExpertConfig, size: int) -> None:
        self.layers = ConvStack(2 + config.latents.dim, config, outputs=3, kaiming=True)


class Genesis(SlotProgram[GenesisConfig]):
    """Priors and decoders of masks and components, and the program that draws images with them.

    Sites are ``z_mask_t`` for t = T..1, ``masks``, ``z_component_t`` and ``x``.

    Args:
        config: number of slots, sizes, sigma.
    """

    def __init__(self, config: GenesisConfig) -> None:
        super().__init__(config)
        masks, components, hidden = config.mask_dim, config.component_dim, config.hidden
        self.mask_priors = nn.ModuleList([AutoregressivePrior(masks, hidden)])
        self.mask_decoders = nn.ModuleList([GatedDecoder(masks, config.channels, config.size)])
        between = nn.Sequential(
            nn.Linear(masks, hidden),
            nn.ELU(),
            nn.Linear(hidden, hidden),
            nn.ELU(),
            nn.Linear(hidden, 2 * components),
        )
        self.component_priors = nn.ModuleList([between])
        self.decoders = nn.ModuleList([ComponentDecoder(config.networks, config.size)])

    def masks(self, z_mask: Tensor) -> Tensor:
        """Masks of the slots, ``(B, T, 1, H, W)``, which sum to 1 over slots.

        Args:
            z_mask: mask latents, ``(B, T, L)``. The last slot takes what is left.
        """
        cut = z_mask[:, :-1]
        if not cut.shape[1]:
            return self._zero.expand(len(z_mask), 1, 1, *[self.config.size] * 2) + 1
        logits = run(self.mask_decoders[0], cut.flatten(0, 1)).unflatten(0, cut.shape[:2])
        return stick_breaking(logits).exp()

    def component_prior(self, z_mask: Tensor) -> TorchDistribution:
        """p(z^c_t | z^m_t), event ``(L,)``, for mask latents ``(B, L)``."""
        return bounded(self.component_priors[0](z_mask))

    def decode(self, z_component: Tensor) -> Tensor:
        """Appearances in [0, 1], ``(B, T, 3, H, W)``, of component latents ``(B, T, L)``."""
        drawn = run(self.decoders[0], z_component.flatten(0, 1))
        return drawn.unflatten(0, z_component.shape[:2])

    def _statements(self, x: Tensor | None, slots: int, scenes: int) -> Slots:
        config, zero = self.config, self._zero
        networks = program(
            mask_prior=self.mask_priors,
            mask_decoder=self.mask_decoders,
            component_prior=self.component_priors,
            decoder=self.decoders,
        )
        with networks, pyro.plate(sites.SCENES, scenes):
            cuts = sample_slots(self.mask_priors[0], sites.z_mask, slots, scenes, zero)
            z_mask = torch.stack(cuts, 1)
            event = torch.Size((slots, 1, config.size, config.size))
            masks = DecodedMasks(lambda: self.masks(z_mask), torch.Size((scenes,)), event)
            m = pyro.sample(sites.MASKS, masks)
            parts = []
            for i, t in enumerate(sites.front_to_back(slots)):
                name = sites.z_component(t)
                z_t = pyro.sample(name, self.component_prior(cuts[i]))
                parts.append(site_value(name, z_t, scenes, (config.component_dim,), zero))
            z_component = torch.stack(parts, 1)
            mean = self.decode(z_component)
            mixture = PixelMixture(m, mean, (zero + config.sigma).expand(slots))
            image = pyro.sample(sites.IMAGE, mixture, obs=x, infer=noise(APPEARANCE))
        return Slots(image, m, mean, fractions(m), torch.cat([z_mask, z_component], 2))
