"""Gated convolutions: the mask encoder and decoder of GENESIS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from econ_pyro.accel.amp import at_least_float32

KERNEL = 5


class GatedConv2d(nn.Module):
    """A convolution, half of whose output, through a sigmoid, gates the other half.

    Values are normalised over each image (group normalisation of one group).

    Args:
        inputs: channels.
        outputs: channels.
        stride: 1, or 2 to halve the image; of a transposed convolution, to double it.
        transposed: whether the convolution is a transposed one.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, transposed: bool = False) -> None:
        super().__init__()
        padding = KERNEL // 2
        self.convolution: nn.Module
        if transposed:
            self.convolution = nn.ConvTranspose2d(
                inputs, 2 * outputs, KERNEL, stride, padding, output_padding=stride - 1
            )
        else:
            self.convolution = nn.Conv2d(inputs, 2 * outputs, KERNEL, stride, padding)
        self.norm = nn.GroupNorm(1, outputs)

    def forward(self, h: Tensor) -> Tensor:
        """Output ``(n, outputs, H', W')`` for ``(n, inputs, H, W)``."""
        values, gates = self.convolution(h).chunk(2, 1)
        return self.norm(values) * gates.sigmoid()


def _strides(blocks: int) -> list[int]:
    """The second and fourth block change the size."""
    return [2 if i in (1, 3) else 1 for i in range(blocks)]


class GatedEncoder(nn.Module):
    """Images to features.

    Args:
        channels: of each block.
        size: height and width of the image, a multiple of 4.
        features: number of features.
    """

    def __init__(self, channels: Sequence[int], size: int, features: int) -> None:
        super().__init__()
        pairs = zip((3, *channels), channels, _strides(len(channels)), strict=False)
        self.blocks = nn.Sequential(*(GatedConv2d(*sizes) for sizes in pairs))
        self.head = nn.Linear(channels[-1] * (size // 4) ** 2, features)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(n, features)``, in float32 or better, of images ``(n, 3, H, W)``."""
        h = self.blocks(x.contiguous(memory_format=torch.channels_last))
        return at_least_float32(self.head(h.flatten(1)))


class GatedDecoder(nn.Module):
    """Latents to the logits of masks: :class:`GatedEncoder` in reverse.

    Args:
        latents: dimensions of a latent.
        channels: of the encoder's blocks.
        size: height and width of the image, a multiple of 4.
    """

    def __init__(self, latents: int, channels: Sequence[int], size: int) -> None:
        super().__init__()
        self.start = (channels[-1], size // 4, size // 4)
        self.tail = nn.Linear(latents, channels[-1] * (size // 4) ** 2)
        strides = _strides(len(channels))
        outputs = (*channels[-2::-1], channels[0])
        pairs = zip(reversed(channels), outputs, reversed(strides), strict=True)
        self.blocks = nn.Sequential(*(GatedConv2d(*sizes, transposed=True) for sizes in pairs))
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``(n, 1, H, W)``, in float32 or better, of latents ``(n, L)``."""
        h = self.tail(z).unflatten(1, self.start)
        h = self.blocks(h.contiguous(memory_format=torch.channels_last))
        return at_least_float32(self.head(h)).contiguous()
