r"""The generative model p of GENESIS-V2 (Engelcke et al., 2021), as a Pyro program.

One latent a slot makes both its mask and its appearance, as in MONet, and depends on those of
earlier slots, as in GENESIS:

.. math:: p(z) = \prod_t p(z_t | z_{>t}), \quad (\mu_t, c_t) = g(z_t), \quad
          m_i = softmax_t(c_{t,i}), \quad x_i \sim \sum_t m_{t,i} N(\mu_{t,i}, \sigma^2)

The decoded masks are the weights of the mixture, in training too.
"""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from econ_pyro.accel.amp import at_least_float32
from econ_pyro.core import sites
from econ_pyro.core.handlers import APPEARANCE, noise
from econ_pyro.core.parameters import program
from econ_pyro.core.pose import coordinates
from econ_pyro.core.slot_masks import DecodedMasks, PixelMixture
from econ_pyro.model_config import GenesisV2Config
from econ_pyro.models.autoregressive import AutoregressivePrior, sample_slots
from econ_pyro.models.decoder import broadcast
from econ_pyro.models.slots import SlotProgram, Slots, decoded

DOUBLINGS, KERNEL, GROUPS = 4, 5, 8


class UpsamplingDecoder(nn.Module):
    """A latent, broadcast to a grid that doubles four times, to RGB and the logit of a mask.

    Args:
        config: sizes.
    """

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__()
        grid = coordinates(config.size // 2**DOUBLINGS)
        self.register_buffer("grid", grid, persistent=False)
        self.grid: Tensor
        blocks: list[nn.Module] = []
        inputs, features = 2 + config.latent_dim, config.features
        for _ in range(DOUBLINGS):
            padding = KERNEL // 2
            convolution = nn.ConvTranspose2d(inputs, features, KERNEL, 2, padding, 1)
            groups = GROUPS if features % GROUPS == 0 else 1
            blocks += [convolution, nn.GroupNorm(groups, features), nn.ReLU(inplace=True)]
            inputs = features
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(inputs, 4, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``(n, 4, H, W)``, in float32 or better, of latents ``(n, L)``."""
        h = broadcast(self.grid.expand(z.shape[0], -1, -1, -1), z)
        h = self.blocks(h.contiguous(memory_format=torch.channels_last))
        return at_least_float32(self.head(h)).contiguous()


class GenesisV2(SlotProgram[GenesisV2Config]):
    """A prior and a decoder for all slots, and the program that draws images with them.

    Sites are ``z_t`` for t = T..1, ``masks`` and ``x``.

    Args:
        config: number of slots, sizes, sigma.
    """

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__(config)
        self.priors = nn.ModuleList([AutoregressivePrior(config.latent_dim, config.hidden)])
        self.decoders = nn.ModuleList([UpsamplingDecoder(config)])

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Appearances in [0, 1], ``(B, T, 3, H, W)``, and masks, ``(B, T, 1, H, W)``.

        Args:
            z: latents, ``(B, T, L)``.
        """
        colours, logits = decoded(self.decoders[0], z)
        return colours, logits.softmax(1)

    def _statements(self, x: Tensor | None, slots: int, scenes: int) -> Slots:
        zero = self._zero
        networks = program(prior=self.priors, decoder=self.decoders)
        with networks, pyro.plate(sites.SCENES, scenes):
            found = sample_slots(self.priors[0], sites.z, slots, scenes, zero)
            z = torch.stack(found, 1)
            mean, masks = self.decode(z)
            decoded = DecodedMasks(lambda: masks, masks.shape[:1], masks.shape[1:])
            m = pyro.sample(sites.MASKS, decoded)
            mixture = PixelMixture(m, mean, (zero + self.config.sigma).expand(slots))
            image = pyro.sample(sites.IMAGE, mixture, obs=x, infer=noise(APPEARANCE))
        return Slots(image, m, mean, m, z)
