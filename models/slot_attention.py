r"""The decoder of Slot Attention (Locatello et al., 2020), as a Pyro program.

One decoder makes an appearance and the logit of a mask of each slot; the image is their blend:

.. math:: (\mu_t, c_t) = g(z_t), \quad m_i = softmax_t(c_{t,i}), \quad
          x_i \sim N(\sum_t m_{t,i} \mu_{t,i}, \sigma^2 I)

so that -log p(x | z) is the squared error of an autoencoder. Slots have no prior: the model
explains images, and draws an image of given slots (``poutine.condition``), but no new scenes.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from econ_pyro.core.slot_masks import PixelBlend
from econ_pyro.errors import EconError
from econ_pyro.model_config import SlotAttentionConfig
from econ_pyro.models.slots import UnorderedSlots


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


class SlotAttention(UnorderedSlots[SlotAttentionConfig]):
    """A decoder for all slots, and the program that explains images with it.

    Sites are ``z_t`` for t = T..1, ``masks`` and ``x``.

    Args:
        config: number of slots, sizes, sigma.
    """

    def latent_prior(self, scenes: int) -> NoPrior:
        """None: latents have to be given, batch ``(B,)``, event ``(L,)``."""
        return NoPrior(torch.Size((scenes,)), torch.Size((self.config.latent_dim,)))

    def mixture(self, mean: Tensor, m: Tensor) -> PixelBlend:
        """As :meth:`UnorderedSlots.mixture`: a Gaussian about the blended image."""
        return PixelBlend(m, mean, (self._zero + self.config.sigma).expand(m.shape[1]))
