"""Attention network of one expert: the U-Net of MONet, as GENESIS describes it (C.2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.config import ExpertConfig
from econ_pyro.guides.norm import InstanceNorm2d
from econ_pyro.layers import mean_over

SALIENT = 4.0  # largest salience: a small bright thing is not worth more than an object
EVEN = 0.01  # squared distance below which colours hardly differ: a scope of one colour


class _Block(nn.Sequential):
    """3x3 convolution without bias, instance normalisation with affine map, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            InstanceNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class AttentionUNet(nn.Module):
    """Image and log scope to the logit of the share of the scope that the expert takes.

    Args:
        config: sizes of the expert.
        size: height and width of the image, a multiple of 2 to the number of blocks less one.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        channels = config.channels
        self.down = nn.ModuleList(
            _Block(a, b) for a, b in zip((4, *channels[:-1]), channels, strict=True)
        )
        inner = channels[-1] * (size // 2 ** (len(channels) - 1)) ** 2
        self.bottleneck = nn.Sequential(
            nn.Linear(inner, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, inner),
            nn.ReLU(inplace=True),
        )
        # mirrors the way down: each block takes its own input and the skip of the same size
        outputs = (*reversed(channels[:-1]), channels[0])
        self.up = nn.ModuleList(
            _Block(2 * a, b) for a, b in zip(reversed(channels), outputs, strict=True)
        )
        self.head = nn.Conv2d(channels[0], 1, 1)
        nn.init.constant_(self.head.bias, config.attention_bias)  # type: ignore[arg-type]
        self.salient = config.salient
        if config.salient:
            self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x_and_log_s: Tensor) -> Tensor:
        """Attention logits.

        Args:
            x_and_log_s: image and log scope, ``(n, 4, H, W)``.

        Returns:
            ``(n, 1, H, W)``.
        """
        h, skips = x_and_log_s, []
        for i, block in enumerate(self.down):
            if i:
                h = h[:, :, ::2, ::2]  # nearest neighbour, half the size
            h = block(h)
            skips.append(h)
        h = self.bottleneck(h.flatten(1)).view_as(h)
        for i, block in enumerate(self.up):
            h = torch.cat([h, skips.pop()], dim=1)
            h = block(h.contiguous(memory_format=torch.channels_last))
            if i < len(self.up) - 1:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
        if not self.salient:
            return self.head(h)
        return self.head(h) + self.gain * salience(x_and_log_s)


@torch.no_grad()
def salience(x_and_log_s: Tensor) -> Tensor:
    """How far each pixel is from the scope's mean colour.

    Args:
        x_and_log_s: image and log scope, ``(n, 4, H, W)``.

    Returns:
        Squared distances over their mean, at most SALIENT, ``(n, 1, H, W)``.
    """
    x, s = x_and_log_s[:, :3], x_and_log_s[:, 3:].exp()
    distance = (x - mean_over(s, x)[:, :, None, None]).square().sum(1, keepdim=True)
    return (distance / (mean_over(s, distance)[:, :, None, None] + EVEN)).clamp_max(SALIENT)
