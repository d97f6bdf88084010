"""Spatial broadcast decoder of one expert (appendix C.2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from econ_pyro.config import ExpertConfig


class SpatialBroadcastDecoder(nn.Module):
    """A latent to appearance and shape logits.

    The latent is repeated over the image, two coordinate grids in [-1, 1] are added, and blocks
    of 3x3 convolution and ReLU follow; a 1x1 convolution gives RGB and shape.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = config.latent + 2
        for _ in range(config.layers):
            blocks += [nn.Conv2d(channels, config.features, 3, padding=1), nn.ReLU(inplace=True)]
            channels = config.features
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, 4, 1)
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias[3] = config.shape_bias
        axis = torch.linspace(-1, 1, size)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
        self.register_buffer("grid", grid[None], persistent=False)  # (1, 2, H, W)
        self.grid: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """Logits of RGB and shape.

        Args:
            z: latents, ``(n, L)``.

        Returns:
            ``(n, 4, H, W)``; the sigmoid of the first three is the mean, of the last the shape.
        """
        # not len(z), which would fix the batch of an export
        n, height, width = z.shape[0], self.grid.shape[2], self.grid.shape[3]
        h = z[:, :, None, None].expand(-1, -1, height, width)
        h = torch.cat([h, self.grid.expand(n, -1, -1, -1)], dim=1)
        h = h.contiguous(memory_format=torch.channels_last)
        return self.head(self.blocks(h))
