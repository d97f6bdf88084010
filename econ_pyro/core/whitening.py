r"""Whitening of latents: an affine map that keeps N(0, I) the prior of the latents in use.

A latent that stands for a colour has the mean and the spread that colours have; training could
move them only by moving encoder and decoder in step. So both share an affine map

.. math:: z = (v - shift) / scale,

set by the second moments of the aggregate posterior (:func:`refit`). The decoder receives the same
v as the encoder sent, so that no drawing changes, while the sum of KL(q(z) || N(0, I)) over those
posteriors becomes as small as an affine map allows. This is the M step of a Gaussian prior of v,
and samples of N(0, I) have the colours that were seen.

A size keeps a spread of at least SIZE_SPREAD. Without that the M step feeds on itself: an expert
that has won objects of one size gets so narrow a prior that an object of another size costs
hundreds of nats, is left unexplained, and so never widens it again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from econ_pyro.model_config import FreeLatents, PoseLatents

SMALLEST = 1e-3  # factor of a scale in one refit: a latent without spread is not blown up
SIZE_SPREAD = 0.1  # least scale of a log size: a tenth of the size


class Whitening(nn.Module):
    """Shift and scale of each latent, the same in an expert's encoder and decoder.

    The identity until it is refitted. Positions and directions keep their scale
    (:mod:`econ_pyro.core.pose`).

    Args:
        latents: of the expert.
    """

    def __init__(self, latents: FreeLatents | PoseLatents) -> None:
        super().__init__()
        self.fixed = fixed_dims(latents)
        self.sizes = [2] if isinstance(latents, PoseLatents) and latents.size else []
        self.register_buffer("shift", torch.zeros(latents.dim))
        self.register_buffer("scale", torch.ones(latents.dim))
        self.shift: Tensor
        self.scale: Tensor

    def whiten(self, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z from those of v, ``(n, L)`` each."""
        return (mean - self.shift) / self.scale, log_variance - 2 * self.scale.log()

    def unwhiten(self, z: Tensor) -> Tensor:
        """The v that z stands for, ``(n, L)``."""
        return z * self.scale + self.shift


def fixed_dims(latents: FreeLatents | PoseLatents) -> set[int]:
    """The latents that keep their scale."""
    if isinstance(latents, FreeLatents):
        return set()
    last = latents.pose_dim
    return {0, 1} | ({last - 2, last - 1} if latents.angle else set())


def moments(k: Tensor, mean: Tensor, variance: Tensor, experts: int) -> Tensor:
    """Sums over layers of 1, E[z] and E[z^2] by expert; sums of several batches add up.

    Args:
        k: expert of each layer, ``(n,)``.
        mean: of its q(z), ``(n, L)``.
        variance: of its q(z), ``(n, L)``.
        experts: their number K.

    Returns:
        ``(K, 1 + 2 L)`` float64.
    """
    own = nn.functional.one_hot(k, experts).double()
    each = torch.cat([torch.ones_like(mean[:, :1]), mean, mean.square() + variance], 1)
    return own.mT @ each.double()


@torch.no_grad()
def refit(encoder: Whitening, decoder: Whitening, sums: Tensor) -> None:
    """Whiten an expert's latents: its aggregate posterior gets mean 0 and variance 1.

    Args:
        encoder: the encoder's whitening, which is changed.
        decoder: the decoder's, which becomes the same.
        sums: the expert's row of :func:`moments`, ``(1 + 2 L,)``.
    """
    mean, square = (sums[1:] / sums[0]).to(encoder.shift).chunk(2)
    spread = (square - mean.square()).clamp_min(SMALLEST**2).sqrt()
    learnt = torch.tensor([i not in encoder.fixed for i in range(len(mean))], device=mean.device)
    encoder.shift += torch.where(learnt, encoder.scale * mean, 0.0)
    encoder.scale *= torch.where(learnt, spread, 1.0)
    encoder.scale[encoder.sizes] = encoder.scale[encoder.sizes].clamp_min(SIZE_SPREAD)
    decoder.load_state_dict(encoder.state_dict())
