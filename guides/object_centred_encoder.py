"""The recipe's encoder: it crops a window around its region and predicts an object's pose."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.accel.compile import compilable
from econ_pyro.core.compositing import SCOPE_EPS, mean_over
from econ_pyro.core.pose import (
    RADIUS,
    centre,
    coordinates,
    crop,
    latents_of_position,
    log_size_of,
    pass_through,
    window,
)
from econ_pyro.guides.encoder import Encoder, WholeImage, repeated
from econ_pyro.model_config import ExpertConfig, PoseLatents

DARKEST = 0.01  # mean colours are clamped to [DARKEST, 1 - DARKEST]: 0 and 1 have no logit
OFFSET = 0.35  # largest distance of an object's position from its region's centre of mass
LOG_VARIANCE = -3.0  # of q(z) at first, a standard deviation of 0.22
LOG_VARIANCE_OF_POSE = -4.0  # a twelfth of the image at most
SURE_LOG_VARIANCE = -7.0  # of all latents, where shapes are given: a deviation of 0.03


class Glimpse(WholeImage):
    """What an :class:`ObjectCentredEncoder` sees: a window around the region, and its statistics.

    In the window, colours are relative to the region's mean: what is learnt about an object holds
    for colours that it never had. Nothing in here is learnt.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__(config, size)
        assert isinstance(config.latents, PoseLatents)
        self.has_size = config.latents.size
        self.register_buffer("grid", coordinates(size), persistent=False)  # (1, 2, H, W)
        self.grid: Tensor
        outside = torch.tensor([0.0, 0.0, 0.0, math.log(SCOPE_EPS)])[:, None, None]
        self.register_buffer("outside", outside, persistent=False)
        self.outside: Tensor

    def forward(self, x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        """Inputs of the encoder.

        Args:
            x: images, ``(n / each, 3, H, W)``; regions of one image follow one another.
            r: regions, ``(n, 1, H, W)``.

        Returns:
            Colours and log region in a window, ``(n, 4, H / 2, W / 2)``; and the region's centre
            of mass, mean colour and, with a size, log size, ``(n, 5)`` or ``(n, 6)``.
        """
        inputs, where, statistics = _statistics(x, r, self.grid, self.outside, self.has_size)
        return crop(inputs, where, self.outside), statistics


@compilable
def _statistics(
    x: Tensor, r: Tensor, grid: Tensor, outside: Tensor, has_size: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What to crop from, where, and the region's statistics."""
    x, r = repeated(x, r), r.clamp_min(SCOPE_EPS)
    position, colour = centre(r, grid), mean_over(r, x)
    inputs = torch.cat([x - colour[:, :, None, None], r.log()], 1)
    statistics = [position, colour]
    if has_size:
        statistics.append(log_size_of(r, position, grid))
    return inputs - outside, window(r, position, grid), torch.cat(statistics, 1)


class ObjectCentredEncoder(Encoder):
    """An encoder that predicts an object's pose, mean colour and residual appearance.

    The first two means are the region's centre of mass plus a learnt offset: positions are about
    right before anything is learnt, and how far an object's hidden part shifts its centre is
    learnt for all positions at once. The last three means (or what there are) start as the
    region's mean colour, which the decoder renders back
    (:class:`~econ_pyro.models.object_centred_decoder.ObjectCentredDecoder`): at first a region
    pays for having several colours, not for colours still to be learnt. Latents start with little
    noise, which would hide small errors of position.

    With ``latents.size``, the third mean is the log size that the region's spread suggests plus a
    learnt offset, for parts that are hidden. With ``latents.angle``, two means after these are the
    direction of an object that is not turned; the guide turns them
    (:func:`~econ_pyro.models.pose_search.fitting_directions`).
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__(config, size)
        latents = config.latents
        assert isinstance(latents, PoseLatents)
        del self.blocks[-2]  # windows have half the size: one pooling less
        self.has_size, self.has_angle = latents.size, latents.angle
        self.reach, self.dim = latents.reach, latents.dim
        self.largest = math.log(latents.largest or math.inf)
        self.colour = pass_through(3, latents.dim - latents.pose_dim)
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight[2 : self.dim] = 0.0
            last.bias[2 : self.dim] = 0.0
            last.bias[self.dim :] = LOG_VARIANCE
            last.bias[self.dim :][: latents.pose_dim] = LOG_VARIANCE_OF_POSE

    @torch.no_grad()
    def start_at_centre(self) -> None:
        """Let the position be the region's centre of mass, whatever is seen, and latents be sure.

        Of a decoder that draws sharp shapes already, noise of position would only blur them. And
        the first expert that unlearnt the noise of colours would win every object.
        """
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.weight[:2] = 0.0
        last.bias[:2] = 0.0
        last.bias[self.dim :] = SURE_LOG_VARIANCE

    def forward(self, seen: Tensor, statistics: Tensor) -> Tensor:  # type: ignore[override]
        """Means and log variances of z, ``(n, 2 L)``.

        Args:
            seen: colours and log region in the window, ``(n, 4, H / 2, W / 2)``.
            statistics: of the region (:class:`Glimpse`).
        """
        out = self._features(seen)
        position, colour, log_size = statistics.tensor_split((2, 5), 1)
        # unbounded, latents far from the prior are the quickest way to change a new decoder's
        # output, and stay there
        passed = self.colour(colour.clamp(DARKEST, 1 - DARKEST).logit())
        means = [latents_of_position(position + OFFSET * F.softsign(out[:, :2]), self.reach)]
        if self.has_size:
            means.append((log_size + F.softsign(out[:, 2:3])).clamp(max=self.largest))
        first = 2 + self.has_size
        if self.has_angle:
            means.append(F.pad(out.new_full((out.shape[0], 1), RADIUS), (0, 1)))  # not turned
            first += 2
        means.append((out[:, first : self.dim] + passed).asinh())
        return self._whitened(torch.cat([*means, out[:, self.dim :]], 1))
