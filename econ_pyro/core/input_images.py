"""Images and regions that a user gives: in the networks' type, or an error that says why not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from econ_pyro.core.tensors import fitted, kind_of
from econ_pyro.errors import EconError, describe

TOLERANCE = 1e-4
"""How far values may be outside [0, 1] by rounding: a fortieth of a step of 8 bits."""


def as_images(images: Any, size: int, dtype: torch.dtype) -> Tensor:
    """Images in the networks' type, on the device where they are, cut from any graph.

    Values outside [0, 1] by no more than rounding are clamped.

    Args:
        images: what came.
        size: height and width of the model's images.
        dtype: of the networks.

    Raises:
        EconError: none, or another shape, type or range than ``(B, 3, size, size)`` float in
            [0, 1].
    """
    x = check_kind(images, size).detach()
    if not len(x):
        raise EconError(_expected(size), kind_of(images), "give at least one")
    slack = max(TOLERANCE, 2 * torch.finfo(x.dtype).eps)
    x = x.to(dtype)
    low, high = (value.item() for value in x.aminmax())
    if not (-slack <= low and high <= 1 + slack):
        raise EconError(_expected(size), f"values {_range(low, high)}", _rescale(low, high))
    return x.clamp(0, 1) if low < 0 or high > 1 else x


def program_images(images: Any, size: int, like: Tensor) -> Tensor:
    """Images for a program, in the networks' type; any values, also those that the prior drew.

    Args:
        images: what came.
        size: height and width of the model's images.
        like: of the networks' type and device.

    Raises:
        EconError: another shape or type than ``(..., B, 3, size, size)`` float, or another
            device.
    """
    if isinstance(images, Tensor) and images.dim() > 4:  # batch dimensions on the left
        check_kind(images.flatten(0, -4), size)
    else:
        check_kind(images, size)
    return fitted("x", images, tuple(images.shape), like)


def check_kind(images: Any, size: int) -> Tensor:
    """Images of the right type and shape, whatever their values, also none.

    Raises:
        EconError: another shape or type than ``(B, 3, size, size)`` float.
    """
    if not isinstance(images, Tensor):
        raise EconError(_expected(size), _no_tensor(images), _to_tensor(images))
    if images.layout != torch.strided:
        raise EconError(_expected(size), f"a {images.layout} tensor", "use images.to_dense()")
    if images.is_meta:
        raise EconError(_expected(size), "a meta tensor", "it has no values: load the real one")
    hints = []
    if tuple(images.shape[1:]) != (3, size, size) or images.ndim != 4:
        hints.append(_reshape(tuple(images.shape), size))
    if images.is_complex():
        hints.append("take their real part")
    elif not images.is_floating_point():
        hints.append(_from_integers(images))
    if hints:
        raise EconError(_expected(size), kind_of(images), ", then ".join(hints))
    return images


def as_regions(
    regions: Any, scenes: int, steps: int, size: int, dtype: torch.dtype
) -> Tensor | None:
    """Regions in the networks' type, on the device where they are; None if there are none.

    Args:
        regions: what came; booleans are 0 and 1.
        scenes: number of images B.
        steps: number of layers T.
        size: height and width of the images.
        dtype: of the networks.

    Raises:
        EconError: another shape, type or range than ``(B, T, 1, H, W)`` in [0, 1], or they do
            not sum to 1 over layers.
    """
    if regions is None:
        return None
    shape = (scenes, steps, 1, size, size)
    expected = f"regions {shape} in [0, 1] that sum to 1 over layers"
    if not isinstance(regions, Tensor):
        raise EconError(expected, _no_tensor(regions), "use torch.as_tensor")
    if regions.layout != torch.strided or regions.is_meta:
        raise EconError(expected, f"a {'meta' if regions.is_meta else regions.layout} tensor")
    if regions.shape != shape:
        flat = regions.shape == (scenes, steps, size, size)
        hint = "add the axis of channels with evidence[:, :, None]" if flat else ""
        raise EconError(expected, kind_of(regions), hint)
    if not regions.is_floating_point() and regions.dtype != torch.bool:
        raise EconError(expected, kind_of(regions), "make masks of labels with labels == layer")
    r = regions.detach().to(dtype)
    low, high = (value.item() for value in r.aminmax())
    if not (-TOLERANCE <= low and high <= 1 + TOLERANCE):
        raise EconError(expected, f"values {_range(low, high)}")
    low, high = (value.item() for value in r.sum(1).aminmax())
    slack = 10 * max(TOLERANCE, steps * _precision(regions))
    if not (1 - slack <= low and high <= 1 + slack):
        hint = "the last layer is what the others leave"
        raise EconError(expected, f"sums {_range(low, high)}", hint)
    return r.clamp(0, 1)


def _precision(regions: Tensor) -> float:
    return torch.finfo(regions.dtype).eps if regions.is_floating_point() else 0.0


def _expected(size: int) -> str:
    return f"images (B, 3, {size}, {size}), float in [0, 1]"


def _no_tensor(value: Any) -> str:
    if getattr(value, "shape", None) is not None:
        return kind_of(value)
    many = isinstance(value, list | tuple) or type(value).__module__.startswith("PIL.")
    return type(value).__name__ if many else describe(value)


def _to_tensor(images: Any) -> str:
    if isinstance(images, list | tuple):
        return "put tensors together with torch.stack"
    if type(images).__module__.startswith("PIL."):
        return (
            "econ_pyro.data.images.read_image reads a file; of a picture in memory, take "
            "torch.from_numpy(numpy.array(picture.convert('RGB'))).permute(2, 0, 1)[None] / 255"
        )
    if hasattr(images, "__array__"):
        return "use torch.from_numpy"
    return "econ_pyro.data.images.read_image reads a file"


def _reshape(shape: tuple[int, ...], size: int) -> str:
    """What makes images of tensors of another shape, as far as it can be told."""
    hints = []
    if len(shape) == 5 and 3 in (shape[2], shape[4]):
        hints.append("join the axes of batches with images.flatten(0, 1)")
        shape = (shape[0] * shape[1], *shape[2:])
    elif len(shape) == 2:
        hints.append("add the axes of batch and channels with images[None, None]")
        shape = (1, 1, *shape)
    elif len(shape) == 3 and (shape[0] in (1, 3, 4) or shape[2] in (1, 3, 4)):
        hints.append("add the batch axis with images[None]")
        shape = (1, *shape)
    elif len(shape) == 3:
        hints.append("add the axis of channels with images[:, None]")
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4:
        return "give one axis each to batch, channels, rows and columns"
    if shape[1] not in (1, 3, 4) and shape[3] in (1, 3, 4):
        hints.append("put channels before rows with images.permute(0, 3, 1, 2)")
        shape = (shape[0], shape[3], shape[1], shape[2])
    if shape[1] == 1:
        hints.append("make grey images RGB with images.expand(-1, 3, -1, -1)")
    elif shape[1] == 4:
        hints.append("leave out alpha with images[:, :3]")
    elif shape[1] != 3:
        hints.append("keep three channels, red, green and blue")
    if shape[2:] != (size, size):
        to = f"size=({size}, {size})"
        hints.append(f"resize them with torch.nn.functional.interpolate(images, {to})")
    return ", then ".join(hints)


def _from_integers(images: Tensor) -> str:
    high = int(images.long().max()) if images.numel() else 255
    if high <= 1 and images.dtype != torch.uint8:
        return "convert them with images.float()"
    return f"divide by {255 if high <= 255 else 65535}"


def _range(low: float, high: float) -> str:
    if low != low or high != high:
        return "that are not a number (NaN)"
    return f"from {low:.6g} to {high:.6g}"


def _rescale(low: float, high: float) -> str:
    """What brings values into [0, 1], as far as it can be told."""
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # NaN, too
        return "find out where they come from, or use torch.nan_to_num"
    if low >= -0.5 and high <= 1.5:  # as resampling with bicubic or Lanczos filters gives
        return "use images.clamp(0, 1)"
    if low >= -1.5 and high <= 1.5:
        return "from [-1, 1], use (images + 1) / 2"
    if low >= -0.5:
        return f"divide by {255 if high <= 256 else 65535}"
    return "undo their normalisation: times the standard deviation, plus the mean"
