"""Encoder of one expert (appendix C.2.1), and one that looks about its region."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.config import ExpertConfig
from econ_pyro.core.pose import latents_of, pass_on
from econ_pyro.core.whitening import Units

DARKEST = 0.01  # logits of mean colours are of it to 1 less it: black and white have none
OFF = 0.35  # how far an object's place may be from its region's centre of mass
LOG_VARIANCE = -3.0  # of q(z) at first, a standard deviation of 0.22
LOG_VARIANCE_OF_PLACE = -4.0  # the same of a place: a twelfth of the image at the most; of a size


class Encoder(nn.Module):
    """What a :class:`~econ_pyro.guides.glimpse.Look` sees to the parameters of q(z).

    Blocks of 3x3 convolution, ReLU and 2x2 max pooling, then two fully connected layers, the
    first with 4 L units.

    With ``centred``, blocks see a window about the region in place of the image, and the first
    two means are the region's centre of mass and what these add to it: an object's place is
    about right before anything is learnt, and how far its hidden part moves it is learnt for
    all places at once. The last three means (or what there are) start as the region's mean colour,
    which the decoder gives back (:class:`~econ_pyro.models.decoder.SpatialBroadcastDecoder`): what
    a region costs at first is that it has several colours, not that colours have to be learnt.
    Latents start nearly without noise, which would hide a place that is off by less.

    With ``scaled``, the third mean is the log of the size that the region's spread speaks of, and
    what these add to it, for parts that are hidden.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 4
        for _ in range(config.layers):
            blocks += [nn.Conv2d(channels, config.features, 3, padding=1)]
            blocks += [nn.MaxPool2d(2), nn.ReLU(inplace=True)]  # ReLU before it would be the same
            channels = config.features
        if config.centred:
            del blocks[-2]  # windows are of half the size
        self.blocks = nn.Sequential(*blocks)
        inner = channels * (size // 2**config.layers) ** 2
        last = nn.Linear(4 * config.latent, 2 * config.latent)
        self.head = nn.Sequential(nn.Linear(inner, 4 * config.latent), nn.ReLU(inplace=True), last)
        self.centred, self.scaled, self.reach = config.centred, config.scaled, config.reach
        self.units = Units(config)
        if config.centred:
            self.colour = pass_on(3, config.latent - config.given)
            with torch.no_grad():
                last.weight[2 : config.latent] = 0.0
                last.bias[2 : config.latent] = 0.0
                last.bias[config.latent :] = LOG_VARIANCE
                last.bias[config.latent :][: config.given] = LOG_VARIANCE_OF_PLACE

    def forward(self, seen: Tensor, about: Tensor) -> Tensor:
        """Means and log variances of z.

        Args:
            seen: colours and log region, ``(n, 4, H, W)``, of a window ``(n, 4, H / 2, W / 2)``.
            about: the region's place, colour and size, ``(n, A)``, as far as they are used.

        Returns:
            ``(n, 2 L)``.
        """
        h = self.blocks(seen.contiguous(memory_format=torch.channels_last))
        out = self.head(h.flatten(1))
        if self.centred:
            out = self._beside(out, about)
        return torch.cat(self.units.count(*out.chunk(2, dim=1)), 1)

    def _beside(self, out: Tensor, about: Tensor) -> Tensor:
        """Means beside what is known about the region."""
        place, colour, log_size = about.tensor_split((2, 5), 1)
        latents = out.shape[1] // 2
        # unbounded, latents far from the prior are the quickest way to change a new decoder's
        # output, and stay there
        passed = self.colour(colour.clamp(DARKEST, 1 - DARKEST).logit())
        means = [latents_of(place + OFF * F.softsign(out[:, :2]), self.reach)]
        if self.scaled:
            means.append(log_size + F.softsign(out[:, 2:3]))
        means.append((out[:, 2 + self.scaled : latents] + passed).asinh())
        return torch.cat([*means, out[:, latents:]], 1)
