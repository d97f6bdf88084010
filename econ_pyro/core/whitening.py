r"""Units of latents: an affine map that keeps N(0, I) the prior of what experts really use.

A latent that stands for a colour has the mean and the spread that colours have; learning could
move them only by moving encoder and decoder in step. So both count it in units,

.. math:: z = (v - shift) / scale,

which the second moments of the aggregate posterior set (:func:`refit`): what the encoder says of v
the decoder gets back unchanged, so that no drawing changes, while the sum of
KL(q(z) || N(0, I)) over those posteriors becomes the least that an affine map allows. It is the
M step of a Gaussian prior of v, and samples of N(0, I) have the colours that were seen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from econ_pyro.config import ExpertConfig

SMALLEST = 1e-3  # factor of a scale in one go: no spread at all is no unit


class Units(nn.Module):
    """Shift and scale of each latent, the same in an expert's encoder and decoder.

    With ``centred``, the first two stand for a place, and keep its units
    (:mod:`econ_pyro.core.pose`).

    Args:
        config: of the expert.
    """

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.places = 2 if config.centred else 0
        self.register_buffer("shift", torch.zeros(config.latent))
        self.register_buffer("scale", torch.ones(config.latent))
        self.shift: Tensor
        self.scale: Tensor

    def count(self, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of v, ``(n, L)`` each, as those of z."""
        return (mean - self.shift) / self.scale, log_variance - 2 * self.scale.log()

    def value(self, z: Tensor) -> Tensor:
        """The v that z stands for, ``(n, L)``."""
        return z * self.scale + self.shift


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
def refit(encoder: Units, decoder: Units, sums: Tensor) -> None:
    """Choose units in which an expert's aggregate posterior has mean 0 and variance 1.

    Args:
        encoder: units to change.
        decoder: the same units, in the decoder.
        sums: the expert's row of :func:`moments` in these units, ``(1 + 2 L,)``.
    """
    mean, square = (sums[1:] / sums[0]).to(encoder.shift).chunk(2)
    spread = (square - mean.square()).clamp_min(SMALLEST**2).sqrt()
    learnt = torch.arange(len(mean), device=mean.device) >= encoder.places
    encoder.shift += torch.where(learnt, encoder.scale * mean, 0.0)
    encoder.scale *= torch.where(learnt, spread, 1.0)
    decoder.load_state_dict(encoder.state_dict())
