"""Tensors that programs are given: of the right shape, type and device, and experts that exist.

Torch broadcasts what does not fit, and indexes whatever there is: both paint wrong pictures
without a word. Shape, type and device are known to the host, so that nothing here waits for a GPU;
values are looked at on CPUs alone. What torch compiles or exports is not checked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from econ_pyro.arguments import unknown_expert
from econ_pyro.errors import EconError, describe


def fitted(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A tensor of floats, in the networks' type.

    Args:
        name: of the argument or site, for the error message.
        value: what came.
        shape: what it must be.
        like: of the networks' type and device.

    Raises:
        EconError: it is no tensor of floats of that shape and on that device.
    """
    if torch.compiler.is_compiling():
        return value
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise EconError(f"floats {shape} for {name}", kind_of(value))
    _check_place(name, value, shape, like)
    return value.to(like.dtype)


def site_value(name: str, value: Any, batch: int, event: tuple[int, ...], like: Tensor) -> Tensor:
    """A site's value as handlers left it: of the program's batch, or with dimensions on the left.

    Args:
        name: of the site, for the error message.
        value: what came.
        batch: the program's batch size B; 1 is accepted where there are dimensions on the left,
            as enumeration leaves it.
        event: the event shape.
        like: of the networks' type and device.

    Raises:
        EconError: it is no tensor of floats of shape ``(..., B, *event)`` on that device.
    """
    shape = _with_batch(value, batch, len(event))
    return fitted(name, value, (*shape, *event), like)


def _with_batch(value: Any, batch: int, event: int) -> tuple[int, ...]:
    """The batch shape that a value ought to have, its own dimensions on the left included."""
    if not isinstance(value, Tensor):
        return (batch,)
    own = tuple(value.shape[: value.dim() - event])
    return (*own[:-1], own[-1] if len(own) > 1 and own[-1] == 1 else batch)


def check_experts(name: str, k: Any, shape: tuple[int, ...], experts: int, like: Tensor) -> None:
    """Check indices of experts.

    Args:
        name: of the argument or site, for the error message.
        k: what came.
        shape: what it must be.
        experts: their number K.
        like: a tensor of the networks' device.

    Raises:
        EconError: it is no tensor of integers of that shape and on that device; or, on a CPU,
            there is no such expert (:class:`~econ_pyro.core.ensemble.Ensemble` finds it on a GPU).
    """
    if torch.compiler.is_compiling():
        return
    if not isinstance(k, Tensor) or k.dtype == torch.bool or not _counts(k):
        hint = "give a tensor of type torch.long"
        raise EconError(f"indices of experts {shape} for {name}", kind_of(k), hint)
    _check_place(name, k, shape, like)
    if k.device.type == "cpu":
        check_expert_range(k, experts, f" in {name}")


def check_expert_sites(
    name: str, k: Any, batch: int, experts: int, like: Tensor, slots: int | None = None
) -> None:
    """:func:`check_experts` for a program's batch, with or without dimensions on the left.

    Args:
        name: of the argument or site, for the error message.
        k: what came.
        batch: the program's batch size B.
        experts: their number K.
        like: a tensor of the networks' device.
        slots: number of layers; None for those of one layer.

    Raises:
        EconError: it is no tensor of indices of shape ``(..., B)`` or ``(..., B, T)``.
    """
    event = () if slots is None else (slots,)
    shape = _with_batch(k, batch, len(event))
    check_experts(name, k, (*shape, *event), experts, like)


def check_expert_range(k: Tensor, experts: int, where: str = "") -> None:
    """Check that there are such experts; waits for a GPU.

    Args:
        k: their indices, of any shape.
        experts: their number K.
        where: they came, for the error message, as in ``" in k_2"``.

    Raises:
        EconError: there is none of some index.
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
    """Check the pixels from which regions grow.

    Args:
        name: of the argument, for the error message.
        seed_pixels: what came.
        shape: what it must be.
        pixels: of an image.
        like: a tensor of the networks' device.
        rest: the last layer takes what is left, whatever its pixel.

    Raises:
        EconError: it is no int64 tensor of that shape and on that device; or, on a CPU, there is
            no such pixel.
    """
    if torch.compiler.is_compiling():
        return
    if not isinstance(seed_pixels, Tensor) or seed_pixels.dtype != torch.long:
        expected = f"indices of pixels {shape} for {name}, torch.long"
        raise EconError(expected, kind_of(seed_pixels), "row times width, plus column")
    _check_place(name, seed_pixels, shape, like)
    if seed_pixels.device.type == "cpu":
        grown = seed_pixels[:, :-1] if rest else seed_pixels
        unknown = (grown < 0) | (grown >= pixels)
        if unknown.any():
            got = str(grown[unknown][0].item())
            raise EconError(f"pixels from 0 to {pixels - 1} for {name}", got)


def kind_of(value: Any) -> str:
    """What came, for an error message: type and shape of a tensor or array, or the value."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is None or shape is None:
        return describe(value)
    kind = f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    return kind if isinstance(value, Tensor) else f"{type(value).__name__} of {kind}"


def _counts(k: Tensor) -> bool:
    return not k.is_floating_point() and not k.is_complex()


def _check_place(name: str, value: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if value.shape != shape:
        raise EconError(f"{name} of shape {shape}", str(tuple(value.shape)))
    if value.device != like.device:
        raise EconError(
            f"{name} on {like.device}, as the networks",
            f"a tensor on {value.device}",
            f'move it with .to("{like.device}")',
        )
