"""Attention network of one expert: the U-Net of MONet, as GENESIS describes it (C.2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.config import ExpertConfig
from econ_pyro.guides.norm import InstanceNormReLU2d

LEARNT = 4  # features of a pixel, beside its colour and place, that say what it belongs with
SHARP = 2.0  # at first: regions leave a part in 3,000 of an object for others to pay for


class _Block(nn.Sequential):
    """3x3 convolution without bias, instance normalisation with affine map, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            InstanceNormReLU2d(outputs),
        )


class AttentionUNet(nn.Module):
    """Image and log scope to the logit of the share of the scope that the expert takes.

    With seeds, to the features that :func:`econ_pyro.guides.region_growing.grow` makes logits of.

    With a ``patch``, blocks see each square of that many pixels a side as one pixel of all their
    channels, and the head gives what it has learnt of each. Half of the operations, and more of
    the memory moved, are otherwise those of the two blocks at the image's own resolution.

    Args:
        config: sizes of the expert.
        size: height and width of the image, a multiple of the patch times 2 to the number of
            blocks less one.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        channels, patch = config.channels, config.patch
        # torch copies what has patches of one pixel, too
        self.fold = nn.PixelUnshuffle(patch) if patch > 1 else nn.Identity()
        self.unfold = nn.PixelShuffle(patch) if patch > 1 else nn.Identity()
        inputs = (4 * patch**2, *channels[:-1])
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(inputs, channels, strict=True))
        inner = channels[-1] * (size // patch // 2 ** (len(channels) - 1)) ** 2
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
        self.seeded, self.colour_weight = config.seeded, config.colour_weight
        if config.seeded:
            # of what a pixel is like only differences count, which no bias changes
            self.head = nn.Conv2d(channels[0], (3 + LEARNT) * patch**2, 1, bias=False)
            with torch.no_grad():  # colour and place decide at first
                self.head.weight *= 0.03
            self.sharp = nn.Parameter(torch.tensor(SHARP))
            self.near = nn.Parameter(torch.tensor(config.place_weight))
        else:
            self.head = nn.Conv2d(channels[0], patch**2, 1)
            nn.init.constant_(self.head.bias, config.attention_bias)  # type: ignore[arg-type]

    def forward(self, x_and_log_s: Tensor) -> Tensor:
        """Attention logits.

        Args:
            x_and_log_s: image and log scope, ``(n, 4, H, W)``.

        Returns:
            ``(n, 1, H, W)``; with seeds features, ``(n, 1 + 3 + 2 + LEARNT, H, W)``.
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
        out = self.unfold(self.head(h).contiguous())
        if not self.seeded:
            return out
        x = x_and_log_s[:, :3]
        sharp, colour = self.sharp.expand_as(x[:, :1]), self.colour_weight * (x + out[:, :3])
        return torch.cat([sharp, colour, self._places(x), out[:, 3:]], 1)

    def _places(self, x: Tensor) -> Tensor:
        height, width = (
            torch.linspace(0, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[2:]
        )
        rows, columns = torch.meshgrid(height, width, indexing="ij")
        return self.near * torch.stack([rows, columns]).expand(x.shape[0], -1, -1, -1)


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
