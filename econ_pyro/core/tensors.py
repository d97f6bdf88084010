"""Checks of tensors that are passed to programs: shape, type, device and indices of experts.

Otherwise, broadcasting and negative indices would silently give wrong results. Shape, type and
device are checked without synchronising with a GPU; values are only checked on CPUs. Nothing is
checked while torch compiles or exports.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from econ_pyro.arguments import unknown_expert
from econ_pyro.errors import EconError, describe


def fitted(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Check a floating-point tensor and convert it to the type of the networks.

    Args:
        name: name of the argument or site, for the error message.
        value: the value.
        shape: the required shape.
        like: a tensor with the type and device of the networks.

    Raises:
        EconError: the value is not a floating-point tensor of that shape on that device.
    """
    if torch.compiler.is_compiling():
        return value
    if not isinstance(value, Tensor) or not value.is_floating_point():
        hint = "convert it with .float()" if isinstance(value, Tensor) else ""
        raise EconError(f"floats {shape} for {name}", describe_tensor(value), hint)
    _check_shape_and_device(name, value, shape, like)
    return value.to(like.dtype)


def site_value(name: str, value: Any, batch: int, event: tuple[int, ...], like: Tensor) -> Tensor:
    """Check the value of a sample site, which handlers may have set.

    Args:
        name: name of the site, for the error message.
        value: the value.
        batch: batch size B of the program; with further batch dimensions on the left, 1 is
            accepted too, as in enumeration.
        event: the event shape.
        like: a tensor with the type and device of the networks.

    Raises:
        EconError: the value is not a floating-point tensor of shape ``(..., B, *event)`` on that
            device.
    """
    shape = _with_batch(value, batch, len(event))
    return fitted(name, value, (*shape, *event), like)


def _with_batch(value: Any, batch: int, event: int) -> tuple[int, ...]:
    """Required batch shape of a value, including its batch dimensions on the left."""
    if not isinstance(value, Tensor):
        return (batch,)
    own = tuple(value.shape[: value.dim() - event])
    return (*own[:-1], own[-1] if len(own) > 1 and own[-1] == 1 else batch)


def check_experts(name: str, k: Any, shape: tuple[int, ...], experts: int, like: Tensor) -> None:
    """Check indices of experts.

    Args:
        name: name of the argument or site, for the error message.
        k: the indices.
        shape: the required shape.
        experts: number of experts K.
        like: a tensor on the device of the networks.

    Raises:
        EconError: ``k`` is not an integer tensor of that shape on that device; or, on a CPU, an
            index is out of range (on a GPU, :class:`~econ_pyro.core.ensemble.Ensemble` checks it).
    """
    if torch.compiler.is_compiling():
        return
    if not isinstance(k, Tensor) or k.dtype == torch.bool or not _is_integer(k):
        hint = "give a tensor of type torch.long"
        raise EconError(f"indices of experts {shape} for {name}", describe_tensor(k), hint)
    _check_shape_and_device(name, k, shape, like)
    if k.device.type == "cpu":
        check_expert_range(k, experts, f" in {name}")


def check_expert_sites(
    name: str, k: Any, batch: int, experts: int, like: Tensor, slots: int | None = None
) -> None:
    """:func:`check_experts` for a sample site, which may have batch dimensions on the left.

    Args:
        name: name of the argument or site, for the error message.
        k: the indices.
        batch: batch size B of the program.
        experts: number of experts K.
        like: a tensor on the device of the networks.
        slots: number of layers T; None for a single layer.

    Raises:
        EconError: ``k`` is not a tensor of indices of shape ``(..., B)`` or ``(..., B, T)``.
    """
    event = () if slots is None else (slots,)
    shape = _with_batch(k, batch, len(event))
    check_experts(name, k, (*shape, *event), experts, like)


def check_expert_range(k: Tensor, experts: int, where: str = "") -> None:
    """Check that indices of experts are in range; synchronises with a GPU.

    Args:
        k: indices, any shape.
        experts: number of experts K.
        where: origin of the indices, for the error message, such as ``" in k_2"``.

    Raises:
        EconError: an index is out of range.
    """
    unknown = (k < 0) | (k >= experts)
    if unknown.any():
        raise unknown_expert(k[unknown][0].item(), experts, where)


def check_seed_pixels(
    name: str,
    seed_pixels: Any,
    shape: tuple[int, ...],
    pixels: int,
    like: Tensor,
    rest: bool = False,
) -> None:
    """Check the seed pixels of regions.

    Args:
        name: name of the argument, for the error message.
        seed_pixels: the indices of pixels.
        shape: the required shape.
        pixels: number of pixels of an image.
        like: a tensor on the device of the networks.
        rest: whether the last layer takes the remaining scope, so that its pixel is not used.

    Raises:
        EconError: ``seed_pixels`` is not an int64 tensor of that shape on that device; or, on a
            CPU, an index is out of range.
    """
    if torch.compiler.is_compiling():
        return
    if not isinstance(seed_pixels, Tensor) or seed_pixels.dtype != torch.long:
        expected = f"indices of pixels {shape} for {name}, torch.long"
        hint = "an index is row * width + column"
        raise EconError(expected, describe_tensor(seed_pixels), hint)
    _check_shape_and_device(name, seed_pixels, shape, like)
    if seed_pixels.device.type == "cpu":
        grown = seed_pixels[:, :-1] if rest else seed_pixels
        unknown = (grown < 0) | (grown >= pixels)
        if unknown.any():
            got = str(grown[unknown][0].item())
            raise EconError(f"pixels from 0 to {pixels - 1} for {name}", got)


def describe_tensor(value: Any) -> str:
    """Describe a value for an error message: type and shape of a tensor or array, or the value."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is None or shape is None:
        return describe(value)
    kind = f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    return kind if isinstance(value, Tensor) else f"{type(value).__name__} of {kind}"


def _is_integer(k: Tensor) -> bool:
    return not k.is_floating_point() and not k.is_complex()


def _check_shape_and_device(
    name: str, value: Tensor, shape: tuple[int, ...], like: Tensor
) -> None:
    if value.shape != shape:
        raise EconError(f"{name} of shape {shape}", str(tuple(value.shape)))
    if value.device != like.device:
        raise EconError(
            f"{name} on {like.device}, the device of the networks",
            f"a tensor on {value.device}",
            f'move it with .to("{like.device}")',
        )
