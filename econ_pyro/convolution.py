"""Convolution and ReLU in one go over memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from econ_pyro.sampling import exporting

_THERE = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_convolution_pointwise"
)


def convolve_relu(h: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """``relu(conv2d(h, weight, bias))``, in the precision of autocast.

    On CPUs, in compiled graphs without gradients, it is one kernel of oneDNN, which torch's
    compiler would use for weights that never change only.

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
    ones, around = [1, 1], [padding, padding]
    return torch.ops.mkldnn._convolution_pointwise(
        h, weight, bias, around, ones, ones, groups, "relu", [], ""
    )


def _in_one(h: Tensor) -> bool:
    if not torch.compiler.is_compiling() or exporting() or torch.is_grad_enabled():
        return False
    return _THERE and h.device.type == "cpu" and h.dtype in (torch.float32, torch.bfloat16)
