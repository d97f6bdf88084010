r"""IODINE's generative model p (Greff et al., 2019), as a Pyro program.

A slot t has a latent, of which one decoder makes an appearance and the logit of a mask. The masks
are the weights of a mixture at each pixel i:

.. math:: z_t \sim N(0, I), \quad (\mu_t, c_t) = g(z_t), \quad m_i = softmax_t(c_{t,i}),
          \quad x_i \sim \sum_t m_{t,i} \, p(x_i | \mu_{t,i})

with a Gaussian p, or the logistic one of the authors' code. Slots are exchangeable: none is in
front of another, none is meant for the background.
"""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from econ_pyro.accel.compile import compiling
from econ_pyro.core.slot_masks import LogisticMixture, PixelMixture
from econ_pyro.model_config import IodineConfig
from econ_pyro.models.autoregressive import standard
from econ_pyro.models.slots import UnorderedSlots


class Iodine(UnorderedSlots[IodineConfig]):
    """A decoder for all slots, and the program that draws images with it.

    Sites are ``z_t`` for t = T..1, ``masks`` and ``x``.

    Args:
        config: number of slots, sizes, likelihood.
    """

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`UnorderedSlots.decode`, not compiled."""
        # compiled networks keep nothing for the second of two backward passes
        with compiling(False):
            return super().decode(z)

    def mixture(self, mean: Tensor, m: Tensor) -> PixelMixture:
        """p(x | z).

        Args:
            mean: appearances, ``(B, T, 3, H, W)``.
            m: masks, ``(B, T, 1, H, W)``.
        """
        kind = LogisticMixture if self.config.likelihood == "logistic" else PixelMixture
        return kind(m, mean, (self._zero + self.config.sigma).expand(m.shape[1]))

    def latent_prior(self, scenes: int) -> TorchDistribution:
        """p(z_t) = N(0, I), batch ``(B,)``, event ``(L,)``."""
        return standard(self._zero, scenes, self.config.latent_dim)
