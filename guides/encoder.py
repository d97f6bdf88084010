"""Encoder of one expert (appendix C.2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from econ_pyro.accel.compile import compilable
from econ_pyro.core.compositing import with_log
from econ_pyro.core.whitening import Whitening
from econ_pyro.model_config import ExpertConfig


class WholeImage(nn.Module):
    """What an :class:`Encoder` sees: the image and the log of the region.

    Not the image times the region: with that input, all objects ended up in one region.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        """Inputs of the encoder.

        Args:
            x: images, ``(n / each, 3, H, W)``; regions of one image follow one another.
            r: regions, ``(n, 1, H, W)``.

        Returns:
            Colours and log region, ``(n, 4, H, W)``.
        """
        return (_image_and_region(x, r),)

    @torch.no_grad()
    def of_all(self, x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        """The same for K regions of each image, without gradients, ``(B, K, ...)`` each.

        Args:
            x: images, ``(B, 3, H, W)``.
            r: regions, ``(B, K, 1, H, W)``.
        """
        found = self(x, r.flatten(0, 1))
        return tuple(part.unflatten(0, r.shape[:2]) for part in found)


class Encoder(nn.Module):
    """Image and region to the parameters of q(z).

    Blocks of 3x3 convolution, ReLU and 2x2 max pooling, then two fully connected layers, the
    first with 4 L units.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        latents = config.latents.dim
        blocks: list[nn.Module] = []
        channels = 4
        for _ in range(config.layers):
            blocks += [nn.Conv2d(channels, config.features, 3, padding=1)]
            blocks += [nn.MaxPool2d(2), nn.ReLU(inplace=True)]  # the order makes no difference
            channels = config.features
        self.blocks = nn.Sequential(*blocks)
        inner = channels * (size // 2**config.layers) ** 2
        last = nn.Linear(4 * latents, 2 * latents)
        self.head = nn.Sequential(nn.Linear(inner, 4 * latents), nn.ReLU(inplace=True), last)
        self.whitening = Whitening(config.latents)

    def forward(self, seen: Tensor) -> Tensor:
        """Means and log variances of z, ``(n, 2 L)``.

        Args:
            seen: colours and log region, ``(n, 4, H, W)``.
        """
        return self._whitened(self._features(seen))

    def _features(self, seen: Tensor) -> Tensor:
        h = self.blocks(seen.contiguous(memory_format=torch.channels_last))
        return self.head(h.flatten(1))

    def _whitened(self, out: Tensor) -> Tensor:
        return torch.cat(self.whitening.whiten(*out.chunk(2, dim=1)), 1)


def repeated(x: Tensor, r: Tensor) -> Tensor:
    """Images, each as often as it has regions."""
    each = r.shape[0] // x.shape[0]
    return x[:, None].expand(-1, each, -1, -1, -1).flatten(0, 1)


@compilable
def _image_and_region(x: Tensor, r: Tensor) -> Tensor:
    return with_log(repeated(x, r), r)
