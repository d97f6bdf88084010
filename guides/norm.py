"""Instance normalisation and ReLU, fast for channels_last images of any size on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from econ_pyro.accel.amp import at_least_float32


class InstanceNormReLU2d(nn.Module):
    """Instance normalisation with affine map, then ReLU, for any memory format.

    Computed in float32 or better; the output has the input's dtype, as the convolutions before
    and after it have.

    Torch's own kernels are slow on a CPU for channels_last images below 32x32: 1.9 ms forward
    and backward where this takes 0.4 (float32, 64 channels, 16x16, batch 16).

    Args:
        channels: number of channels C.
    """

    EPS = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised and rectified ``(n, C, H, W)``, of the type of ``x``."""
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        if torch.compiler.is_compiling():  # which finds the gradient itself, and fuses it
            wide = at_least_float32(x)
            variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
            # on a CPU it would take a square root at every pixel: it keeps an exponential that
            # is needed twice
            slope = (-0.5 * (variance + self.EPS).log()).exp() * weight
            return torch.addcmul(bias - mean * slope, wide, slope).relu().to(x.dtype)
        if torch.is_grad_enabled():
            return _NormReLU.apply(x, weight, bias)
        return _normalise(x, weight, bias)[0]  # plain operations, which exporters can follow


def _normalise(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The result, ``x`` less each channel's mean, and one over the channel's deviation."""
    wide = at_least_float32(x)
    mean = wide.mean((2, 3), keepdim=True)
    centred = wide - mean if wide is x else wide.sub_(mean)  # a copy may be overwritten
    variance = centred.square().mean((2, 3), keepdim=True)
    scale = (variance + InstanceNormReLU2d.EPS).rsqrt()
    out = torch.addcmul(bias, centred, scale * weight).relu_()
    return out.to(x.dtype), centred, scale


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out, centred, scale = _normalise(x, weight, bias)
        ctx.save_for_backward(centred, scale, weight, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centred, scale, weight, out = ctx.saved_tensors
        (grad,) = grads
        grad = at_least_float32(torch.ops.aten.threshold_backward(grad, out, 0))
        pixels = grad.shape[2] * grad.shape[3]
        along = (grad * centred).sum((2, 3), keepdim=True) * scale
        total = grad.sum((2, 3), keepdim=True)
        slope = scale * weight
        grad_x = torch.addcmul(slope * total / -pixels, grad, slope)
        grad_x.addcmul_(centred, slope * scale * along / -pixels)
        return grad_x.to(out.dtype), along.sum(0), total.sum(0)
