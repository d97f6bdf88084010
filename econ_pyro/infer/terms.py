r"""The three terms of the class-conditional ELBO, once, for the competition and for learning.

Of a layer t, with region r, mean mu, posterior q(z) and scope s (Eqs. 10-12), in nats:

.. math::
    L_x = \sum_i r_i \|x_i - \mu_i\|^2 / 2 \sigma^2, \quad
    L_z = KL(q(z) \| N(0, I)), \quad
    L_r = \sum_i KL(Bern(r_i) \| Bern(s_i m_i))

Learning minimises L_x + beta L_z + gamma L_r summed over layers (Eq. 13); the competition ranks
experts by lambda L_x + L_r (section 5.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence


class Terms(NamedTuple):
    """Terms of Eqs. 10-12 in nats, of equal shape, usually ``(B,)`` or ``(B, T)``."""

    x: Tensor
    z: Tensor
    r: Tensor

    def loss(self, beta: float, gamma: float | Tensor) -> Tensor:
        """Eq. 13, negated: what is minimised."""
        return self.x + beta * self.z + gamma * self.r

    def competition_loss(self, lam: float) -> Tensor:
        """Section 5.2: what experts compete on, lower is better."""
        return lam * self.x + self.r

    def map(self, f: Callable[[Tensor], Tensor]) -> Terms:
        """The same function of each term."""
        return Terms(*(f(term) for term in self))


def stack(terms: list[Terms], dim: int) -> Terms:
    """Stack layers or experts along a new axis."""
    return Terms(*(torch.stack(parts, dim) for parts in zip(*terms, strict=True)))


def layer_terms(
    error: Tensor,
    q_z: TorchDistribution,
    p_z: TorchDistribution,
    q_r: TorchDistribution,
    p_r: TorchDistribution,
) -> Terms:
    """Eqs. 10-12 of one layer.

    Args:
        error: the layer's squared error in nats, ``(B,)``.
        q_z: posterior of the latent, batch ``(B,)``, event ``(L,)``.
        p_z: prior of the latent.
        q_r: posterior of the region, batch ``(B,)``, event ``(1, H, W)``.
        p_r: the decoder's prediction of the region, scope times shape.

    Returns:
        Terms, each ``(B,)``.
    """
    return Terms(x=error, z=kl_divergence(q_z, p_z), r=kl_divergence(q_r, p_r))
