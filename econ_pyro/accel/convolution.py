"""Convolution and ReLU in one go over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from econ_pyro.core.sampling import exporting

_THERE = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_convolution_pointwise"
)


def convolve_relu(h: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """``relu(conv2d(h, weight, bias))``, in the precision of autocast.

    On CPUs, in compiled graphs, it is one kernel of oneDNN, which torch's compiler would use for
    weights that never change only.

    Args:
        h: ``(n, C, H, W)``.
        weight: ``(D, C / groups, side, side)``.
        bias: ``(D,)``.
        padding: zeros on each side.
        groups: of channels.

    Returns:
        ``(n, D, H', W')``.
    """
    if not _in_one(h):
        return F.conv2d(h, weight, bias, padding=padding, groups=groups).relu_()
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        h, weight, bias = (a.to(dtype) for a in (h, weight, bias))
    run = _ConvolveReLU.apply if torch.is_grad_enabled() else _both
    return run(h, weight, bias, padding, groups)


def _in_one(h: Tensor) -> bool:
    if not torch.compiler.is_compiling() or exporting():
        return False
    return _THERE and h.device.type == "cpu" and h.dtype in (torch.float32, torch.bfloat16)


def _both(h: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    ones, around = [1, 1], [padding, padding]
    return torch.ops.mkldnn._convolution_pointwise(
        h, weight, bias, around, ones, ones, groups, "relu", [], ""
    )


class _ConvolveReLU(torch.autograd.Function):
    """The kernel, and the gradients of its two operations."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, *settings: int) -> Tensor:
        out = _both(h, weight, bias, *settings)
        ctx.save_for_backward(h, weight, out)
        ctx.settings = settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, out = ctx.saved_tensors
        padding, groups = ctx.settings
        grad = torch.ops.aten.threshold_backward(grads[0], out, 0)
        ones, none, around = [1, 1], [0, 0], [padding, padding]
        found = torch.ops.aten.convolution_backward(
            grad,
            h,
            weight,
            [weight.shape[0]],
            ones,
            around,
            ones,
            False,
            none,
            groups,
            ctx.needs_input_grad[:3],
        )
        return (*found, None, None)
