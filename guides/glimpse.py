"""What encoders see of a region: the same for all experts, and nothing in it is learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from econ_pyro.accel.compile import fused
from econ_pyro.config import ExpertConfig
from econ_pyro.core.compositing import SCOPE_EPS, join_channels, mean_over, with_log
from econ_pyro.core.occlusion import occlude
from econ_pyro.core.pose import centre, coordinates, glimpse, log_size_of, window


class Look(nn.Module):
    """Image and region to the input of an :class:`~econ_pyro.guides.encoder.Encoder`.

    With ``centred``, that is a window about the region in place of the image, and numbers about
    the region. In the window colours are seen as they differ from the region's mean: what is
    learnt of an object holds for colours that it never had.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        self.centred, self.scaled = config.centred, config.scaled
        self.register_buffer("grid", coordinates(size), persistent=False)  # (1, 2, H, W)
        self.grid: Tensor
        outside = torch.tensor([0.0, 0.0, 0.0, math.log(SCOPE_EPS)])[:, None, None]
        self.register_buffer("outside", outside, persistent=False)
        self.outside: Tensor

    def forward(
        self, x: Tensor, r: Tensor, occluder: Tensor | None = None, each: int = 1
    ) -> tuple[Tensor, Tensor]:
        """What is seen, and what is known about the region.

        Args:
            x: images, ``(n / each, 3, H, W)``. Not the image times the region: with it all objects
                fell into one region.
            r: regions, ``(n, 1, H, W)``.
            occluder: what is in front, ``(n, 4, H, W)``; nothing if not given
                (:mod:`econ_pyro.core.occlusion`).
            each: regions of each image, one after the other.

        Returns:
            Colours and log region, ``(n, 4, H, W)``, of a window ``(n, 4, H / 2, W / 2)``; and
            the region's centre of mass, mean colour and, with ``scaled``, log of its size,
            ``(n, A)``; A is 0 where not ``centred``.
        """
        if not self.centred:
            return _whole(x, r, occluder, each), x.new_empty(r.shape[0], 0)
        inputs, where, about = _about(x, r, occluder, each, self.grid, self.outside, self.scaled)
        return glimpse(inputs, where, self.outside), about

    @torch.no_grad()
    def at_all(self, x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        """The same of K regions of each image, ``(B, K, ...)`` each, without gradients.

        Args:
            x: images, ``(B, 3, H, W)``.
            r: regions, ``(B, K, 1, H, W)``.
        """
        found = self(x, r.flatten(0, 1), each=r.shape[1])
        return tuple(part.unflatten(0, r.shape[:2]) for part in found)


def _behind(x: Tensor, r: Tensor, occluder: Tensor | None, each: int) -> tuple[Tensor, Tensor]:
    """Images, of which each has several regions, and regions as they are seen."""
    x = x[:, None].expand(-1, each, -1, -1, -1).flatten(0, 1)
    return occlude(x, r, occluder)


@fused
def _whole(x: Tensor, r: Tensor, occluder: Tensor | None, each: int) -> Tensor:
    x, r = _behind(x, r, occluder, each)
    return with_log(x, r)


@fused
def _about(
    x: Tensor,
    r: Tensor,
    occluder: Tensor | None,
    each: int,
    grid: Tensor,
    outside: Tensor,
    scaled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What to cut a window from, where, and numbers."""
    x, r = _behind(x, r, occluder, each)
    r = r.clamp_min(SCOPE_EPS)
    place, colour = centre(r, grid), mean_over(r, x)
    inputs = join_channels(x - colour[:, :, None, None], r.log())
    about = [place, colour]
    if scaled:
        about.append(log_size_of(r, place, grid))
    return inputs - outside, window(r, place, grid), torch.cat(about, 1)
