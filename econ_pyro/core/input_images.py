"""Validation and conversion of images and regions from users."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from econ_pyro.core.tensors import describe_tensor, fitted, site_value
from econ_pyro.errors import EconError, describe

TOLERANCE = 1e-4
"""Tolerance for values outside [0, 1] due to rounding: 1/40 of a step of 8 bits."""


def as_images(images: Any, size: int, dtype: torch.dtype) -> Tensor:
    """Check images, detach them and convert them to the type of the networks, on their device.

    Values outside [0, 1] due to rounding are clamped.

    Args:
        images: the images.
        size: height and width of the model's images.
        dtype: type of the networks.

    Raises:
        EconError: the images are not a non-empty floating-point tensor ``(B, 3, size, size)`` in
            [0, 1].
    """
    x = check_image_shape(images, size).detach()
    if not len(x):
        raise EconError(_expected(size), describe_tensor(images), "give at least one")
    tolerance = max(TOLERANCE, 2 * torch.finfo(x.dtype).eps)
    x = x.to(dtype)
    low, high = (value.item() for value in x.aminmax())
    if not (-tolerance <= low and high <= 1 + tolerance):
        raise EconError(_expected(size), f"values {_range(low, high)}", _rescale(low, high))
    return x.clamp(0, 1) if low < 0 or high > 1 else x


def program_images(images: Any, size: int, like: Tensor) -> Tensor:
    """Check the images of a program and convert them to the type of the networks.

    Values outside [0, 1] are allowed, as in samples of the prior.

    Args:
        images: the images.
        size: height and width of the model's images.
        like: a tensor with the type and device of the networks.

    Raises:
        EconError: the images are not a floating-point tensor ``(..., B, 3, size, size)`` on that
            device.
    """
    if isinstance(images, Tensor) and images.dim() > 4:  # batch dimensions on the left
        check_image_shape(images.flatten(0, -4), size)
    else:
        check_image_shape(images, size)
    return fitted("x", images, tuple(images.shape), like)


def program_mask(name: str, mask: Any, batch: int, size: int, like: Tensor) -> Tensor:
    """Check a region or a shape of a program and convert it to the type of the networks.

    Handlers such as ``poutine.condition`` may have set it. Values are checked where Pyro's
    validation is enabled.

    Args:
        name: name of the site, for the error message.
        mask: the region or shape.
        batch: batch size B of the program.
        size: height and width of the model's images.
        like: a tensor with the type and device of the networks.

    Raises:
        EconError: the mask is not a floating-point tensor ``(..., B, 1, size, size)`` in [0, 1] on
            that device.
    """
    mask = site_value(name, mask, batch, (1, size, size), like)
    if is_validation_enabled() and mask.numel() and not torch.compiler.is_compiling():
        low, high = (value.item() for value in mask.detach().aminmax())
        if not (-TOLERANCE <= low and high <= 1 + TOLERANCE):
            hint = "scale it to [0, 1], or threshold it with (mask > 0.5).float()"
            raise EconError(f"values in [0, 1] for {name}", f"values {_range(low, high)}", hint)
    return mask


def check_image_shape(images: Any, size: int) -> Tensor:
    """Check type and shape of images, but not their values or number.

    Raises:
        EconError: the images are not a floating-point tensor ``(B, 3, size, size)``.
    """
    if not isinstance(images, Tensor):
        raise EconError(_expected(size), _describe_other(images), _to_tensor(images))
    if images.layout != torch.strided:
        raise EconError(_expected(size), f"a {images.layout} tensor", "use images.to_dense()")
    if images.is_meta:
        raise EconError(_expected(size), "a meta tensor", "use a tensor with values")
    hints = []
    if tuple(images.shape[1:]) != (3, size, size) or images.ndim != 4:
        hints.append(_reshape(tuple(images.shape), size))
    if images.is_complex():
        hints.append("take their real part")
    elif not images.is_floating_point():
        hints.append(_from_integers(images))
    if hints:
        raise EconError(_expected(size), describe_tensor(images), ", then ".join(hints))
    return images


def as_regions(
    regions: Any, scenes: int, slots: int, size: int, dtype: torch.dtype
) -> Tensor | None:
    """Check true regions, detach them and convert them to the type of the networks.

    Args:
        regions: the true regions; booleans are converted to 0 and 1; may be None.
        scenes: number of images B.
        slots: number of layers T.
        size: height and width of the images.
        dtype: type of the networks.

    Raises:
        EconError: the regions are not a tensor ``(B, T, 1, H, W)`` in [0, 1], or do not sum to 1
            over layers.
    """
    if regions is None:
        return None
    shape = (scenes, slots, 1, size, size)
    expected = f"true regions {shape} in [0, 1] that sum to 1 over layers"
    if not isinstance(regions, Tensor):
        raise EconError(expected, _describe_other(regions), "use torch.as_tensor")
    if regions.layout != torch.strided or regions.is_meta:
        raise EconError(expected, f"a {'meta' if regions.is_meta else regions.layout} tensor")
    if regions.shape != shape:
        flat = regions.shape == (scenes, slots, size, size)
        hint = "add the channel axis with evidence[:, :, None]" if flat else ""
        raise EconError(expected, describe_tensor(regions), hint)
    if not regions.is_floating_point() and regions.dtype != torch.bool:
        hint = "convert labels to masks with labels == layer"
        raise EconError(expected, describe_tensor(regions), hint)
    r = regions.detach().to(dtype)
    low, high = (value.item() for value in r.aminmax())
    if not (-TOLERANCE <= low and high <= 1 + TOLERANCE):
        raise EconError(expected, f"values {_range(low, high)}")
    low, high = (value.item() for value in r.sum(1).aminmax())
    tolerance = 10 * max(TOLERANCE, slots * _precision(regions))
    if not (1 - tolerance <= low and high <= 1 + tolerance):
        hint = "the last layer contains the pixels that no other layer has"
        raise EconError(expected, f"sums {_range(low, high)}", hint)
    return r.clamp(0, 1)


def _precision(regions: Tensor) -> float:
    return torch.finfo(regions.dtype).eps if regions.is_floating_point() else 0.0


def _expected(size: int) -> str:
    return f"images (B, 3, {size}, {size}), float in [0, 1]"


def _describe_other(value: Any) -> str:
    if getattr(value, "shape", None) is not None:
        return describe_tensor(value)
    many = isinstance(value, list | tuple) or type(value).__module__.startswith("PIL.")
    return type(value).__name__ if many else describe(value)


def _to_tensor(images: Any) -> str:
    if isinstance(images, list | tuple):
        return "join tensors with torch.stack"
    if type(images).__module__.startswith("PIL."):
        return (
            "econ_pyro.data.images.read_image reads a file; for an image in memory, use "
            "torch.from_numpy(numpy.array(image.convert('RGB'))).permute(2, 0, 1)[None] / 255"
        )
    if hasattr(images, "__array__"):
        return "use torch.from_numpy"
    return "econ_pyro.data.images.read_image reads a file"


def _reshape(shape: tuple[int, ...], size: int) -> str:
    """Hint that converts a tensor of another shape to images."""
    hints = []
    if len(shape) == 5 and 3 in (shape[2], shape[4]):
        hints.append("join the batch axes with images.flatten(0, 1)")
        shape = (shape[0] * shape[1], *shape[2:])
    elif len(shape) == 2:
        hints.append("add batch and channel axes with images[None, None]")
        shape = (1, 1, *shape)
    elif len(shape) == 3 and (shape[0] in (1, 3, 4) or shape[2] in (1, 3, 4)):
        hints.append("add the batch axis with images[None]")
        shape = (1, *shape)
    elif len(shape) == 3:
        hints.append("add the channel axis with images[:, None]")
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4:
        return "give one axis each to batch, channels, rows and columns"
    if shape[1] not in (1, 3, 4) and shape[3] in (1, 3, 4):
        hints.append("put channels before rows with images.permute(0, 3, 1, 2)")
        shape = (shape[0], shape[3], shape[1], shape[2])
    if shape[1] == 1:
        hints.append("make grey images RGB with images.expand(-1, 3, -1, -1)")
    elif shape[1] == 4:
        hints.append("remove alpha with images[:, :3]")
    elif shape[1] != 3:
        hints.append("select three channels: red, green and blue")
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
    """Hint that brings values into [0, 1]."""
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # includes NaN
        return "check the source of the images, or use torch.nan_to_num"
    if low >= -0.5 and high <= 1.5:  # overshoots of bicubic or Lanczos resampling
        return "use images.clamp(0, 1)"
    if low >= -1.5 and high <= 1.5:
        return "from [-1, 1], use (images + 1) / 2"
    if low >= -0.5:
        return f"divide by {255 if high <= 256 else 65535}"
    return "undo the normalisation: multiply by the standard deviation and add the mean"
