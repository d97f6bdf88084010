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
        check_known(k, experts, f" in {name}")


def check_known(k: Tensor, experts: int, where: str = "") -> None:
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


def check_seeds(
    name: str,
    seeds: Any,
    shape: tuple[int, ...],
    pixels: int,
    like: Tensor,
    rest: bool = False,
) -> None:
    """Check pixels that regions grow from.

    Args:
        name: of the argument, for the error message.
        seeds: what came.
        shape: what it must be.
        pixels: of an image.
        like: a tensor of the networks' device.
        rest: the last layer takes what is left, from any seed.

    Raises:
        EconError: it is no int64 tensor of that shape and on that device; or, on a CPU, there is
            no such pixel.
    """
    if torch.compiler.is_compiling():
        return
    if not isinstance(seeds, Tensor) or seeds.dtype != torch.long:
        expected = f"indices of pixels {shape} for {name}, torch.long"
        raise EconError(expected, kind_of(seeds), "row times width, plus column")
    _check_place(name, seeds, shape, like)
    if seeds.device.type == "cpu":
        grown = seeds[:, :-1] if rest else seeds
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
