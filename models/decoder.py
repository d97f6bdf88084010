"""Spatial broadcast decoder of one expert (appendix C.2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.accel.amp import at_least_float32
from econ_pyro.core.pose import coordinates
from econ_pyro.core.whitening import Whitening
from econ_pyro.model_config import ExpertConfig


class SpatialBroadcastDecoder(nn.Module):
    """A latent to appearance and shape.

    The latent is repeated over the image, two coordinate grids in [-1, 1] are added, and blocks
    of 3x3 convolution and ReLU follow; a 1x1 convolution gives RGB and shape.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        self.whitening = Whitening(config.latents)
        self.register_buffer("grid", coordinates(size), persistent=False)  # (1, 2, H, W)
        self.grid: Tensor
        self._make_layers(config, size)

    def _make_layers(self, config: ExpertConfig, size: int) -> None:
        inputs = 2 + config.latents.dim
        self.layers = ConvStack(inputs, config, outputs=4, kaiming=config.kaiming)
        with torch.no_grad():
            self.layers.head.bias[-1] = config.shape_bias  # type: ignore[index]

    def shape_parameters(self) -> list[nn.Parameter]:
        """What the shape depends on and the appearance does not: nothing, as they share layers."""
        return []

    def forward(self, z: Tensor) -> Tensor:
        """Appearance mu and shape probability m: Eqs. 4 and 5.

        Args:
            z: latents, ``(n, L)``.

        Returns:
            RGB and shape in [0, 1], ``(n, 4, H, W)``, in float32 or better.
        """
        return self.logits(z).sigmoid()

    def logits(self, z: Tensor) -> Tensor:
        """What :meth:`forward` gives the sigmoid of, ``(n, 4, H, W)``, in float32 or better."""
        z = self.whitening.unwhiten(z)
        grid = self.grid.expand(z.shape[0], -1, -1, -1)  # len() would fix an export's batch
        return at_least_float32(self.layers(broadcast(grid, z)))


def broadcast(grid: Tensor, z: Tensor) -> Tensor:
    """Coordinates, and latents repeated over the image, ``(n, C + L, H, W)``."""
    height, width = grid.shape[2:]
    return torch.cat([grid, z[:, :, None, None].expand(-1, -1, height, width)], dim=1)


class ConvStack(nn.Module):
    """Blocks of convolution and ReLU, and a 1x1 convolution.

    Args:
        inputs: channels.
        config: number of blocks and their feature maps.
        outputs: channels.
        kernel: side of the blocks' convolutions.
        kaiming: start with He initialisation; torch's own lets what is drawn, and its gradients,
            fade with depth.
    """

    def __init__(
        self,
        inputs: int,
        config: ExpertConfig,
        outputs: int,
        kernel: int = 3,
        kaiming: bool = False,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for _ in range(config.layers):
            convolution = nn.Conv2d(inputs, config.features, kernel, padding=kernel // 2)
            if kaiming:
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            blocks += [convolution, nn.ReLU(inplace=True)]
            inputs = config.features
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(inputs, outputs, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Output ``(n, outputs, H, W)`` for ``(n, inputs, H, W)``."""
        return run_stacks([self], h)


def run_stacks(stacks: Sequence[ConvStack], h: Tensor) -> Tensor:
    """Outputs of several stacks for the same input, along channels, as grouped convolutions.

    Small convolutions take as long to launch as to compute: one call serves all networks.
    """
    h = h.contiguous(memory_format=torch.channels_last)
    last = len(stacks[0].blocks)
    for i, same in enumerate(zip(*([*s.blocks, s.head] for s in stacks), strict=True)):
        layer = same[0]
        if not isinstance(layer, nn.Conv2d):
            h = h.relu_()
            continue
        weight, bias = layer.weight, layer.bias
        if len(same) > 1:
            weight, bias = (torch.cat([getattr(c, of) for c in same]) for of in ("weight", "bias"))
        groups = h.shape[1] // weight.shape[1]  # one at first, where all see the same input
        padding = 0 if i == last else layer.padding
        h = F.conv2d(h, weight, bias, padding=padding, groups=groups)
    # what follows works on single channels, and is fast where each is contiguous
    return h.contiguous()
