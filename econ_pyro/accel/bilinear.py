"""Bilinear sampling with torch's kernel, also in compiled graphs.

On CPUs, the loop that torch's compiler generates for it is six times slower.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# exports must not contain custom operations; older versions of torch (2.11) do not distinguish
# compilation from export, so the compiler's loop is used there
exporting = getattr(torch.compiler, "is_exporting", lambda: True)


def sample(pixels: Tensor, where: Tensor, border: bool = False) -> Tensor:
    """Sample images with bilinear interpolation.

    Args:
        pixels: images, ``(n, C, H, W)``.
        where: coordinates (y, x), ``(n, 2, h, w)``; -1 and 1 are the centres of the outermost
            pixels, as in :func:`~econ_pyro.core.pose.coordinates`.
        border: whether to repeat the values of the border outside; otherwise they are 0.

    Returns:
        ``(n, C, h, w)``.
    """
    compiled = torch.compiler.is_compiling() and not exporting()
    run = _opaque if compiled and pixels.device.type == "cpu" else _plain
    return run(pixels, where.permute(0, 2, 3, 1).flip(-1), border)


def _plain(pixels: Tensor, where: Tensor, border: bool) -> Tensor:
    mode = "border" if border else "zeros"
    return F.grid_sample(pixels, where, padding_mode=mode, align_corners=True)


_opaque = torch.library.custom_op("econ_pyro::sample", _plain, mutates_args=())


@_opaque.register_fake
def _(pixels: Tensor, where: Tensor, border: bool) -> Tensor:
    return pixels.new_empty(*pixels.shape[:2], *where.shape[1:3])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    pixels, where, ctx.border = inputs
    ctx.save_for_backward(pixels, where)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    pixels, where = ctx.saved_tensors
    bilinear, needed = 0, list(ctx.needs_input_grad[:2])
    of_pixels, of_where = torch.ops.aten.grid_sampler_2d_backward(
        grad, pixels, where, bilinear, int(ctx.border), True, needed
    )
    return of_pixels, of_where, None


_opaque.register_autograd(_backward, setup_context=_keep)
