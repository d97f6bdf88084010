r"""Rendering of scenes.

The layers of a :class:`~econ_pyro.io.scene_file.Scene` are decoded and moved. The visible ones are
composited back to front as in the prior program,

.. math:: x \leftarrow m_t x_t + (1 - m_t) x

but with soft shapes and without noise. Pixels without a layer are transparent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from econ_pyro.arguments import as_int
from econ_pyro.core.compositing import stages
from econ_pyro.errors import EconError
from econ_pyro.io.scene_file import MAX_VALUE, Scene
from econ_pyro.model_config import EconConfig


class Decoder(Protocol):
    """Interface of the models whose scenes can be rendered."""

    config: EconConfig

    def decode(self, z_t: Tensor, k_t: Tensor) -> tuple[Tensor, Tensor]:
        """Appearances ``(B, 3, H, W)`` and shapes ``(B, 1, H, W)`` of latents and experts."""


@dataclass(frozen=True, eq=False)
class RenderedScene:
    """A rendered scene on the CPU, its layers front to back, including hidden ones."""

    mean: Tensor
    """Appearances at their positions, ``(T, 3, H, W)`` in [0, 1]."""
    shape: Tensor
    """Shapes at their positions, ``(T, 1, H, W)`` in [0, 1]; 1 everywhere for a background."""
    visible: tuple[bool, ...]
    """Whether each layer is part of the image."""

    @property
    def layers(self) -> Tensor:
        """Each layer with its shape as alpha, ``(T, 4, H, W)``, RGB not premultiplied."""
        return torch.cat([self.mean, self.shape], 1)

    @property
    def stages(self) -> Tensor:
        """The image after each visible layer, back to front, ``(n, 4, H, W)`` as ``layers``."""
        visible = list(self.visible)
        m, x = self.shape[visible], self.mean[visible]
        if not len(m):
            return x.new_zeros(0, 4, *x.shape[2:])
        covered = stages(m[None], torch.ones_like(m)[None].expand(-1, -1, 3, -1, -1))[0, :, :1]
        return torch.cat([stages(m[None], x[None])[0] / covered.clamp_min(1e-6), covered], 1)

    @property
    def image(self) -> Tensor:
        """The image, ``(4, H, W)`` in [0, 1], alpha last; transparent without visible layers."""
        stages = self.stages
        return stages[-1] if len(stages) else stages.new_zeros(4, *stages.shape[2:])


@torch.no_grad()
def render(model: Decoder, scene: Scene, device: torch.device | str = "cpu") -> RenderedScene:
    """Render a scene.

    The appearance and shape of a layer move together. A moved shape is padded with zeros; a moved
    appearance is padded by repeating its edge, so that a background has no gaps.

    Args:
        model: the model.
        scene: the scene.
        device: device of the model.

    Raises:
        EconError: the scene does not fit the model.
    """
    _check(model.config, scene)
    k = torch.tensor([layer.expert for layer in scene.layers], device=device)
    z = torch.tensor([layer.z for layer in scene.layers], device=device)
    decoded = model.decode(z, k)
    means, shapes = [], []
    for layer, mean, shape in zip(scene.layers, *(a.cpu() for a in decoded), strict=True):
        means.append(shift(mean, layer.dx, layer.dy, repeat=True))
        moved = shift(shape, layer.dx, layer.dy)
        shapes.append(torch.ones_like(shape) if layer.background else moved)
    visible = tuple(layer.visible for layer in scene.layers)
    return RenderedScene(torch.stack(means), torch.stack(shapes), visible)


def shift(x: Tensor, dx: float, dy: float, repeat: bool = False) -> Tensor:
    """Move images, with bilinear interpolation for fractions of a pixel.

    Args:
        x: images, ``(..., H, W)``.
        dx: pixels to the right.
        dy: pixels down.
        repeat: pad by repeating the edge instead of with zeros.
    """
    for dim, offset in ((-1, dx), (-2, dy)):
        size = x.shape[dim]
        offset = max(-float(size), min(float(size), offset))  # larger offsets have the same effect
        whole = math.floor(offset)
        near, far = (_roll(x, n, dim, repeat) for n in (whole, whole + 1))
        x = torch.lerp(near, far, offset - whole) if offset != whole else near
    return x


def _check(model: EconConfig, scene: Scene) -> None:
    if scene.size != model.size:
        raise EconError(
            f"a scene of {model.size} pixels, as the images of the run",
            f"{scene.size}",
            "check that it was made with this run",
        )
    if not scene.layers:
        raise EconError("a scene with at least one layer", "none")
    for i, layer in enumerate(scene.layers):
        as_int("the expert of a layer", layer.expert, minimum=None)
        for name, values in (("z", layer.z), ("dx", (layer.dx,)), ("dy", (layer.dy,))):
            if not all(isinstance(v, int | float) and abs(v) <= MAX_VALUE for v in values):
                raise EconError(
                    f"numbers from -1e6 to 1e6 as {name} of layer {i + 1}", str(values)
                )
        if not 0 <= layer.expert < model.num_experts:
            raise EconError(
                f"an expert of layer {i + 1} from 0 to {model.num_experts - 1}", str(layer.expert)
            )
        if len(layer.z) != model.expert.latents.dim:
            raise EconError(
                f"{model.expert.latents.dim} numbers in z of layer {i + 1}", str(len(layer.z))
            )


def _roll(x: Tensor, n: int, dim: int, repeat: bool) -> Tensor:
    source = torch.arange(x.shape[dim], device=x.device) - n
    moved = x.index_select(dim, source.clamp(0, x.shape[dim] - 1))
    inside = ((source >= 0) & (source < x.shape[dim])).to(x.dtype)
    return moved if repeat else moved * (inside if dim == -1 else inside[:, None])
