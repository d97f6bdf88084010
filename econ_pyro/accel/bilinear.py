"""Bilinear sampling by torch's own kernel, in compiled graphs too.

On CPUs, torch's compiler makes a loop over single pixels of it that takes six times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# an export must not find operations of our own; older torch (2.11) takes compiling for exporting,
# and keeps the compiler's loop
exporting = getattr(torch.compiler, "is_exporting", lambda: True)


def sample(pixels: Tensor, where: Tensor, border: bool = False) -> Tensor:
    """What lies between pixels.

    Args:
        pixels: ``(n, C, H, W)``.
        where: (y, x) in [-1, 1], where -1 and 1 are the middles of the outermost pixels, as
            :func:`~econ_pyro.core.pose.coordinates` are, ``(n, 2, h, w)``.
        border: beyond these their values go on; else it is 0 there.

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
