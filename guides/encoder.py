"""Encoder of one expert (appendix C.2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.config import ExpertConfig
from econ_pyro.place import centre, coordinates


class Encoder(nn.Module):
    """Image and log region to the parameters of q(z).

    Blocks of 3x3 convolution, ReLU and 2x2 max pooling, then two fully connected layers, the
    first with 4 L units. With ``centred``, the first two means are the region's centre of mass and
    what these add to it, up to 1: an object's place is about right before anything is learnt. The
    other means are then inverse hyperbolic sines.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 4
        for _ in range(config.layers):
            blocks += [nn.Conv2d(channels, config.features, 3, padding=1), nn.ReLU(inplace=True)]
            blocks += [nn.MaxPool2d(2)]
            channels = config.features
        self.blocks = nn.Sequential(*blocks)
        inner = channels * (size // 2**config.layers) ** 2
        self.head = nn.Sequential(
            nn.Linear(inner, 4 * config.latent),
            nn.ReLU(inplace=True),
            nn.Linear(4 * config.latent, 2 * config.latent),
        )
        self.centred = config.centred
        self.register_buffer("grid", coordinates(size), persistent=False)  # (1, 2, H, W)
        self.grid: Tensor

    def forward(self, x_and_log_r: Tensor) -> Tensor:
        """Means and log variances.

        Args:
            x_and_log_r: image and log region, ``(n, 4, H, W)``. The whole image, not the image
                times the region: with the latter all objects fell into one region.

        Returns:
            ``(n, 2 L)``.
        """
        out = self.head(self.blocks(x_and_log_r).flatten(1))
        if not self.centred:
            return out
        # unbounded, latents far from the prior are the quickest way to change a new decoder's
        # output, and stay there
        centre_of_mass = centre(x_and_log_r[:, 3:].exp(), self.grid)
        place = centre_of_mass + F.softsign(out[:, :2])
        latents = out.shape[1] // 2
        return torch.cat([place, out[:, 2:latents].asinh(), out[:, latents:]], 1)
