"""Attention network of one expert: the U-Net of MONet, as GENESIS describes it (C.2.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.guides.norm import InstanceNormReLU2d
from econ_pyro.model_config import ExpertConfig, UNetAttention


def _block(inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """3x3 convolution without bias, normalisation with affine map and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, norm(outputs))


class AttentionUNet(nn.Module):
    """Image and log scope to the logit of the share of the scope that the expert takes.

    With ``patch`` above 1, squares of pixels are folded into channels (space to depth), and the
    head's output is unfolded again. Otherwise half of the operations are those of the two blocks
    at the image's own resolution.

    Args:
        config: sizes of the expert.
        size: height and width of the image, a multiple of the patch times 2 to the number of
            blocks less one.
        norm: number of channels to a normalisation and ReLU.
    """

    def __init__(
        self,
        config: ExpertConfig,
        size: int,
        norm: Callable[[int], nn.Module] = InstanceNormReLU2d,
    ) -> None:
        super().__init__()
        channels, patch, hidden = (
            config.attention.channels,
            config.attention.patch,
            config.attention.hidden,
        )
        # a shuffle by one pixel would still copy
        self.fold = nn.PixelUnshuffle(patch) if patch > 1 else nn.Identity()
        self.unfold = nn.PixelShuffle(patch) if patch > 1 else nn.Identity()
        inputs = (4 * patch**2, *channels[:-1])
        pairs = zip(inputs, channels, strict=True)
        self.down = nn.ModuleList(_block(a, b, norm) for a, b in pairs)
        inner = channels[-1] * (size // patch // 2 ** (len(channels) - 1)) ** 2
        self.bottleneck = nn.Sequential(
            nn.Linear(inner, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, inner),
            nn.ReLU(inplace=True),
        )
        # mirrors the way down: each block takes its own input and the skip of the same size
        outputs = (*reversed(channels[:-1]), channels[0])
        self.up = nn.ModuleList(
            _block(2 * a, b, norm) for a, b in zip(reversed(channels), outputs, strict=True)
        )
        self._make_head(config, channels[0], patch)

    def _make_head(self, config: ExpertConfig, channels: int, patch: int) -> None:
        assert isinstance(config.attention, UNetAttention)
        self.head = nn.Conv2d(channels, patch**2, 1)
        nn.init.constant_(self.head.bias, config.attention.bias)  # type: ignore[arg-type]

    def forward(self, x_and_log_s: Tensor) -> Tensor:
        """Attention logits, ``(n, 1, H, W)``.

        Args:
            x_and_log_s: image and log scope, ``(n, 4, H, W)``.
        """
        # channels_last is the fast layout of convolutions on CPUs and GPUs, and only of them
        h, skips = self.fold(x_and_log_s).contiguous(memory_format=torch.channels_last), []
        for i, block in enumerate(self.down):
            if i:
                h = _halved(h)
            h = block(h)
            skips.append(h)
        h = self.bottleneck(h.flatten(1)).view_as(h)
        for i, block in enumerate(self.up):
            h = torch.cat([h, skips.pop()], dim=1)
            h = block(h.contiguous(memory_format=torch.channels_last))
            if i < len(self.up) - 1:
                h = _doubled(h)
        return self.unfold(self.head(h).contiguous())


def _halved(h: Tensor) -> Tensor:
    """Every other pixel."""
    if torch.compiler.is_compiling():  # where interpolation scatters gradients atomically
        return h[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
    # slices would be copied twice on the way back
    return F.interpolate(h, scale_factor=0.5, mode="nearest")


def _doubled(h: Tensor) -> Tensor:
    """Every pixel four times."""
    if torch.compiler.is_compiling():
        four = h.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        return four.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return F.interpolate(h, scale_factor=2, mode="nearest")
