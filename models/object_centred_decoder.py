"""The recipe's decoder: it renders in coordinates centred on the object's position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.bilinear import sample
from econ_pyro.core.pose import (
    coordinates,
    direction_of,
    object_coordinates,
    pass_through,
    position_of,
)
from econ_pyro.model_config import ExpertConfig, PoseLatents
from econ_pyro.models.decoder import ConvStack, SpatialBroadcastDecoder, broadcast, run_stacks

FAR = 4.0  # log sizes are drawn no further from 0: noise of an unused one would overflow
BUMP = 6.0  # logit that a new shape has in its middle, relative to far away


class ObjectCentredDecoder(SpatialBroadcastDecoder):
    """A decoder of which the first two latents are the object's position.

    It sees coordinates relative to that position, and a Gaussian bump around it, in place of the
    image's own. What it has learnt to draw it can draw anywhere, so that a sample of the prior is
    an object wherever it falls. A new shape is a blob, and the last three latents (or what there
    are) are its colour: at first, their hyperbolic sines are the logits whose inverse the encoder
    takes, so that any constant colour is reproduced before anything is learnt.

    With ``latents.size``, the third latent is a size, which scales the coordinates. With
    ``latents.angle``, two latents after these are a direction, which turns them.

    With ``latents.shape_dim``, appearance and shape have convolutions of their own, and the
    shape's see the first latents only (the appearance's are 1x1, a function of each pixel's
    position: a third of the time, and as quick to learn). A decoder that has learnt the dents
    that others leave in its objects makes hidden parts cheap to leave out; one that cannot draw
    dents needs an occluder to explain them.

    Where these latents are the pose alone, all shapes are one, which is drawn once, at the image's
    resolution, and brought to each pose by bilinear sampling.
    """

    def _make_layers(self, config: ExpertConfig, size: int) -> None:
        latents = config.latents
        assert isinstance(latents, PoseLatents)
        self.has_size, self.has_angle, self.reach = latents.size, latents.angle, latents.reach
        self.largest = min(math.log(latents.largest or math.inf), FAR)
        self.shape_dim, self.one_shape = latents.shape_dim, latents.one_shape
        own = latents.dim - latents.pose_dim  # latents beside the pose
        if self.shape_dim is None:
            self.layers = ConvStack(3 + own, config, outputs=4, kaiming=True)
            appearance_head = shape_head = self.layers.head
        else:
            self.shape_inputs = 3 + self.shape_dim - latents.pose_dim
            self.appearance = ConvStack(3 + own, config, outputs=3, kernel=1, kaiming=True)
            self.shape = ConvStack(self.shape_inputs, config, outputs=1, kaiming=True)
            appearance_head, shape_head = self.appearance.head, self.shape.head
        self.colour = pass_through(own, 3)
        self.bump = nn.Parameter(torch.tensor(BUMP))
        with torch.no_grad():
            shape_head.bias[-1] = config.shape_bias  # type: ignore[index]
            appearance_head.weight[:3] = 0.0
            appearance_head.bias[:3] = 0.0  # type: ignore[index]
        if self.shape_dim is not None:  # as far as pixels may be from a position
            pixels = math.ceil((1 + latents.reach) * (size - 1) / 2)
            wide = 2 * pixels / (size - 1) * coordinates(2 * pixels + 1)
            wide = object_coordinates(wide.new_zeros(1, 2), wide)
            self.register_buffer("wide", wide, persistent=False)  # (1, 3, S, S)
            self.wide: Tensor

    def shape_parameters(self) -> list[nn.Parameter]:
        """What the shape depends on and the appearance does not."""
        own = [] if self.shape_dim is None else [*self.shape.parameters()]
        return [*own, self.bump]

    def appearance_parameters(self) -> list[nn.Parameter]:
        """What the appearance depends on and the shape does not, but for its own colour."""
        return [] if self.shape_dim is None else [*self.appearance.parameters()]

    def forward(self, z: Tensor, shape: Tensor | None = None) -> Tensor:
        """Appearance mu and shape probability m: Eqs. 4 and 5.

        Args:
            z: latents, ``(n, L)``.
            shape: the one shape (:func:`draw_shapes`), if it has been drawn.

        Returns:
            RGB and shape in [0, 1], ``(n, 4, H, W)``, in float32 or better.
        """
        z = self.whitening.unwhiten(z)
        log_size = direction = None
        position, z = z.tensor_split((2,), 1)
        if self.has_size:
            log_size, z = z.tensor_split((1,), 1)
            log_size = log_size.clamp(-FAR, self.largest)
        if self.has_angle:
            direction, z = z.tensor_split((2,), 1)
            direction = direction_of(direction)
        position = position_of(position, self.reach)
        grid = object_coordinates(position, self.grid, log_size, direction)
        h = broadcast(grid, z)
        if self.shape_dim is None:
            colour, m = self.layers(h).split([3, 1], dim=1)
        else:
            colour = self.appearance(h)
            m = (
                self._moved(grid, shape)
                if self.one_shape
                else self.shape(h[:, : self.shape_inputs])
            )
        colour = colour + self._own_colour(z)
        return at_least_float32(torch.cat([colour, m + self.bump * grid[:, 2:]], 1)).sigmoid()

    def appearance_at(self, points: Tensor, z: Tensor) -> Tensor:
        """Appearance at points in the object's own coordinates.

        Args:
            points: coordinates and bump, ``(3, N)``, as of
                :func:`~econ_pyro.core.pose.object_coordinates`.
            z: latents beside the pose, not whitened, ``(n, L - P)``.

        Returns:
            RGB in [0, 1], ``(n, 3, N)``.
        """
        h = broadcast(points[None, :, None].expand(len(z), -1, -1, -1), z)
        return at_least_float32(self.appearance(h) + self._own_colour(z)).sigmoid()[:, :, 0]

    def _own_colour(self, z: Tensor) -> Tensor:
        # sinh, which torch's compiler would compute anew at every pixel; it keeps an exponential
        # that is needed twice
        e = at_least_float32(self.colour(z)).exp()
        return (0.5 * (e - 1 / e))[:, :, None, None]

    def _moved(self, grid: Tensor, shape: Tensor | None) -> Tensor:
        """The one shape at each image's position."""
        if shape is None:
            (shape,) = draw_shapes([self])
        shape = shape.expand(grid.shape[0], -1, -1, -1)
        return sample(shape, grid[:, :2] / self.wide[0, 0, -1, -1], border=True)


def draw_shapes(
    decoders: Sequence[ObjectCentredDecoder], z: Tensor | None = None
) -> Sequence[Tensor]:
    """The shape of each of several decoders, about a position.

    Args:
        decoders: that have shapes apart from appearances.
        z: latents of shapes beside the pose, ``(n, D)``, if decoders have such.

    Returns:
        Logits of each, ``(n, 1, S, S)`` in float32 or better; n = 1 without latents.
    """
    wide = decoders[0].wide
    h = wide if z is None else broadcast(wide.expand(len(z), -1, -1, -1), z)
    return at_least_float32(run_stacks([decoder.shape for decoder in decoders], h)).split(1, dim=1)
