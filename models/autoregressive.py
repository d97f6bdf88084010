r"""A prior in which each slot's latent depends on those of earlier slots (GENESIS).

.. math:: p(z_{1:T}) = N(z_T | 0, I) \prod_t p(z_t | z_{>t})

in the order of inference, T first. A recurrent network reads the earlier latents.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from econ_pyro.accel.amp import at_least_float32
from econ_pyro.core import sites
from econ_pyro.core.tensors import site_value

LEAST_SCALE = 1e-4


class AutoregressivePrior(nn.Module):
    """A recurrent network, and a linear map to the mean and scale of the next latent.

    Args:
        latents: dimensions of a latent.
        hidden: units of the recurrent network.
    """

    def __init__(self, latents: int, hidden: int) -> None:
        super().__init__()
        self.latents = latents
        self.cell = nn.LSTMCell(latents, hidden)
        self.head = nn.Linear(hidden, 2 * latents)

    def forward(
        self, z: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[TorchDistribution, tuple[Tensor, Tensor]]:
        """The prior of the next latent, event ``(L,)``, and the network's state.

        Args:
            z: the last latent, ``(B, L)``.
            state: from the step before; None of the first.
        """
        hidden, cell = self.cell(z, state)
        return bounded(self.head(hidden)), (hidden, cell)


def sample_slots(
    network: nn.Module,
    name: Callable[[int], str],
    slots: int,
    scenes: int,
    zero: Tensor,
) -> list[Tensor]:
    """Sample statements of the latents of T slots, in the order T..1, ``(B, L)`` each.

    Args:
        network: an :class:`AutoregressivePrior`, of every slot but the first, which has N(0, I).
        name: of the site of slot t.
        slots: number of slots T.
        scenes: number of images B.
        zero: a scalar of the networks' type, on their device.
    """
    assert isinstance(network, AutoregressivePrior)
    prior, state = standard(zero, scenes, network.latents), None
    found: list[Tensor] = []
    for t in sites.front_to_back(slots):
        if found:
            prior, state = network(found[-1], state)
        z_t = pyro.sample(name(t), prior)
        found.append(site_value(name(t), z_t, scenes, (network.latents,), zero))
    return found


def bounded(out: Tensor) -> TorchDistribution:
    """A Gaussian prior with means in (-1, 1) and scales near 1 at first, event ``(L,)``.

    Args:
        out: of a network, ``(..., 2 L)``.
    """
    mean, scale = at_least_float32(out).chunk(2, -1)
    return Normal(mean.tanh(), (scale + 4).sigmoid() + LEAST_SCALE).to_event(1)


def standard(zero: Tensor, batch: int, latents: int) -> TorchDistribution:
    """N(0, I) of batch ``(B,)``, event ``(L,)``.

    Args:
        zero: a scalar of the networks' type, on their device.
        batch: number of images B.
        latents: dimensions L.
    """
    mean = zero.expand(batch, latents)
    return Normal(mean, torch.ones_like(mean)).to_event(1)
