"""Spatial broadcast decoder of one expert (appendix C.2.1), and one that draws about a place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.convolution import convolve_relu
from econ_pyro.config import ExpertConfig
from econ_pyro.core.pose import about, coordinates, pass_on, place_of
from econ_pyro.core.sampling import sample
from econ_pyro.core.whitening import Units

BUMP = 6.0  # logit that a new shape has in the middle over that far away


class SpatialBroadcastDecoder(nn.Module):
    """A latent to appearance and shape.

    The latent is repeated over the image, two coordinate grids in [-1, 1] are added, and blocks
    of 3x3 convolution and ReLU follow; a 1x1 convolution gives RGB and shape.

    With ``centred``, the first two latents are a place, and the decoder sees coordinates from
    there (and a bump around it) in place of the image's own. What it has learnt to draw it can
    then draw anywhere, so that a sample of the prior is an object wherever it falls. A new shape
    is a blob there, and the last three latents (or what there are) are its colour: at first, their
    hyperbolic sines are the logits of which the encoder took the inverse, so that any flat colour
    is right before anything is learnt.

    With ``scaled``, the third latent is a size, and coordinates count by it.

    With ``shape_latents``, appearance and shape have blocks of their own, and the shape's see the
    first latents only (the appearance's are 1x1, a function of each pixel's place: a third of the
    time, and as quick to learn). A decoder that has learnt the bites that others take out of its
    objects makes hidden parts cheap to leave out; one that cannot draw them asks for what hides
    them.

    Where these are the place alone, all shapes are one, which is drawn once, at the image's
    resolution, and moved to each place: bilinearly, from between its pixels.

    Args:
        config: sizes of the expert.
        size: height and width of the image.
    """

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__()
        self.centred, self.scaled = config.centred, config.scaled
        self.reach, self.shape_latents = config.reach, config.shape_latents
        self.units = Units(config)
        if self.shape_latents is None:
            self.both = _Blocks(config, config.latent, 4, kernel=3)
            appearance_head = shape_head = self.both.head
        else:
            self.appearance = _Blocks(config, config.latent, 3, kernel=1)
            self.shape = _Blocks(config, self.shape_latents, 1, kernel=3)
            appearance_head, shape_head = self.appearance.head, self.shape.head
        with torch.no_grad():
            shape_head.bias[-1] = config.shape_bias  # type: ignore[index]
            if self.centred:
                self.colour = pass_on(config.latent - config.given, 3)
                self.bump = nn.Parameter(torch.tensor(BUMP))
                appearance_head.weight[:3] = 0.0
                appearance_head.bias[:3] = 0.0  # type: ignore[index]
        self.register_buffer("grid", coordinates(size), persistent=False)  # (1, 2, H, W)
        self.grid: Tensor
        self.one_shape = config.one_shape
        if self.one_shape:  # as far as pixels may be from a place
            pixels = math.ceil((1 + config.reach) * (size - 1) / 2)
            wide = 2 * pixels / (size - 1) * coordinates(2 * pixels + 1)
            self.register_buffer("wide", about(wide.new_zeros(1, 2), wide), persistent=False)
            self.wide: Tensor  # (1, 3, S, S)

    def forward(self, z: Tensor, shape: Tensor | None = None) -> Tensor:
        """Appearance mu and shape probability m: Eqs. 4 and 5.

        Args:
            z: latents, ``(n, L)``.
            shape: the one shape (:func:`draw_shapes`), if it has been drawn.

        Returns:
            RGB and shape in [0, 1], ``(n, 4, H, W)``, in float32 or better.
        """
        n = z.shape[0]  # len() would fix the batch of an export
        z = self.units.value(z)
        if self.centred:
            place, log_size, z = z[:, :2], None, z[:, 2:]
            if self.scaled:
                log_size, z = z[:, :1], z[:, 1:]
            grid = about(place_of(place, self.reach), self.grid, log_size)
        else:
            grid = self.grid.expand(n, -1, -1, -1)
        height, width = grid.shape[2:]
        h = torch.cat([grid, z[:, :, None, None].expand(-1, -1, height, width)], dim=1)
        if self.shape_latents is None:
            out = self.both(h)
        else:
            seen = self.shape.channels
            m = self._moved(grid, shape) if self.one_shape else self.shape(h[:, :seen])
            out = torch.cat([self.appearance(h), m], 1)
        if self.centred:
            colour, m = out.split([3, 1], dim=1)
            colour = colour + _sinh(at_least_float32(self.colour(z)))[:, :, None, None]
            out = torch.cat([colour, m + self.bump * grid[:, 2:]], 1)
        return at_least_float32(out).sigmoid()

    def _moved(self, grid: Tensor, shape: Tensor | None) -> Tensor:
        """The one shape where :func:`about` says that each image's pixels are."""
        if shape is None:
            (shape,) = draw_shapes([self])
        shape = shape.expand(grid.shape[0], -1, -1, -1)
        return sample(shape, grid[:, :2] / self.wide[0, 0, -1, -1], border=True)


def draw_shapes(decoders: Sequence[SpatialBroadcastDecoder]) -> Sequence[Tensor]:
    """The one shape of each of several decoders that have one, of whatever latents.

    Returns:
        Logits of each, ``(1, 1, S, S)`` in float32 or better.
    """
    logits = _side_by_side([decoder.shape for decoder in decoders], decoders[0].wide)
    return at_least_float32(logits).split(1, dim=1)


def _sinh(x: Tensor) -> Tensor:
    # torch's compiler computes torch.sinh anew at every pixel that it is spread over, but keeps
    # an exponential that is needed twice
    both, n = torch.cat([x, -x], 1).exp(), x.shape[1]
    return 0.5 * (both[:, :n] - both[:, n:])


class _Blocks(nn.Module):
    """Blocks and head over the grid and the first latents."""

    def __init__(self, config: ExpertConfig, latents: int, outputs: int, kernel: int) -> None:
        super().__init__()
        # coordinates (of a place and a size, with a bump there), and the other latents
        self.channels = channels = (3 if config.centred else 2) + latents - config.given
        blocks: list[nn.Module] = []
        for _ in range(config.layers):
            convolution = nn.Conv2d(channels, config.features, kernel, padding=kernel // 2)
            if config.centred:  # torch's own start fades out what is drawn, and with it gradients
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            blocks += [convolution, nn.ReLU(inplace=True)]
            channels = config.features
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, outputs, 1)

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """All, of which a ReLU follows each but the last."""
        return [layer for layer in (*self.blocks, self.head) if isinstance(layer, nn.Conv2d)]

    def forward(self, h: Tensor) -> Tensor:
        return _side_by_side([self], h)


def _side_by_side(networks: Sequence[_Blocks], h: Tensor) -> Tensor:
    """What several draw over the same input, one after the other along channels.

    Small convolutions take as long to call as to compute: those of all networks are one.
    """
    h = h.contiguous(memory_format=torch.channels_last)
    for same in zip(*(network.convolutions for network in networks), strict=True):
        layer = same[0]
        weight, bias = layer.weight, layer.bias
        if len(same) > 1:
            weight, bias = (torch.cat([getattr(c, of) for c in same]) for of in ("weight", "bias"))
        groups = h.shape[1] // weight.shape[1]  # one at first, where all see the same
        if layer is networks[0].head:
            h = F.conv2d(h, weight, bias, groups=groups)
        else:
            h = convolve_relu(h, weight, bias, int(layer.padding[0]), groups)
    # what follows is of single channels, and fast where each lies together
    return h.contiguous()
