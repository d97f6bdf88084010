"""Spatial broadcast decoder of one expert (appendix C.2.1), and one that draws about a place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from econ_pyro.config import ExpertConfig
from econ_pyro.place import about, coordinates


class SpatialBroadcastDecoder(nn.Module):
    """A latent to appearance and shape logits.

    The latent is repeated over the image, two coordinate grids in [-1, 1] are added, and blocks
    of 3x3 convolution and ReLU follow; a 1x1 convolution gives RGB and shape.

    With ``centred``, the first two latents are a place, and the decoder sees coordinates from
    there (and a bump around it) in place of the image's own. What it has learnt to draw it can
    then draw anywhere, so that a sample of the prior is an object wherever it falls.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        self.centred = config.centred
        channels = config.latent + (1 if self.centred else 2)
        for _ in range(config.layers):
            blocks += [nn.Conv2d(channels, config.features, 3, padding=1), nn.ReLU(inplace=True)]
            channels = config.features
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, 4, 1)
        if self.centred:  # torch's own start fades out what is drawn, and with it the gradient
            for block in blocks[::2]:
                nn.init.kaiming_normal_(block.weight, nonlinearity="relu")  # type: ignore[arg-type]
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias[3] = config.shape_bias
        self.register_buffer("grid", coordinates(size), persistent=False)  # (1, 2, H, W)
        self.grid: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """Logits of RGB and shape.

        Args:
            z: latents, ``(n, L)``.

        Returns:
            ``(n, 4, H, W)``; the sigmoid of the first three is the mean, of the last the shape.
        """
        n, height, width = len(z), self.grid.shape[2], self.grid.shape[3]
        if self.centred:
            place, z = z.split([2, z.shape[1] - 2], dim=1)
            grid = about(place, self.grid)
        else:
            grid = self.grid.expand(n, -1, -1, -1)
        h = torch.cat([z[:, :, None, None].expand(-1, -1, height, width), grid], dim=1)
        h = h.contiguous(memory_format=torch.channels_last)
        return self.head(self.blocks(h))
