"""Validation and conversion of user arguments: numbers, experts, devices."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from econ_pyro.errors import EconError, describe

MAX_LAYERS = 256
"""Maximum number of layers of a scene."""
MAX_SEED = 2**64 - 1
"""Largest seed of a torch generator."""
_BOOLS = (torch.bool, np.dtype(bool))


def as_int(name: str, value: Any, minimum: int | None = 1, maximum: int | None = None) -> int:
    """Convert an integer of any type, including NumPy's.

    Args:
        name: name of the argument, for the error message.
        value: the value.
        minimum: smallest valid value; None: no limit.
        maximum: largest valid value; None: no limit.

    Raises:
        EconError: the value is not an integer, or out of bounds.
    """
    try:
        # bool is a subclass of int
        if isinstance(value, bool) or getattr(value, "dtype", None) in _BOOLS:
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise EconError(f"a whole number for {name}", describe(value)) from None
    if minimum is not None and number < minimum:
        raise EconError(f"at least {minimum} for {name}", describe(number))
    if maximum is not None and number > maximum:
        raise EconError(f"at most {maximum:,} for {name}", describe(number))
    return number


def as_float(expected: str, value: Any, minimum: float) -> float:
    """Convert a finite number.

    Args:
        expected: what is valid, for the error message.
        value: the value.
        minimum: smallest valid value.

    Raises:
        EconError: the value is not a number, or is too small, infinite or NaN.
    """
    try:
        if isinstance(value, bool | str):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise EconError(expected, describe(value)) from None
    if not minimum <= found < float("inf"):
        raise EconError(expected, describe(value))
    return found


def as_seed(value: Any) -> int:
    """Check the seed of a torch generator.

    Raises:
        EconError: the value is not an integer from 0 to 2^64 - 1.
    """
    return as_int("seed", value, 0, MAX_SEED)


def expert_index(value: Any, experts: int) -> int:
    """Check the index of one of K experts; negative indices do not count from the end.

    Raises:
        EconError: the value is not an integer from 0 to K - 1.
    """
    if isinstance(value, str):
        raise EconError("an expert by its index", describe(value), "sample takes names as scene=")
    index = as_int("the index of an expert", value, minimum=None)
    if not 0 <= index < experts:
        raise unknown_expert(index, experts)
    return index


def unknown_expert(index: Any, experts: int, where: str = "") -> EconError:
    """The error for an index that is out of range.

    Args:
        index: the index.
        experts: number of experts K.
        where: place of the index, such as ``" in k_2"``.
    """
    expected = f"an expert from 0 to {experts - 1}"
    return EconError(expected, f"{describe(index)}{where}", f"the model has K = {experts} experts")


def num_layers(k: Any) -> int:
    """Number of layers T of expert indices ``(..., B, T)``.

    Raises:
        EconError: ``k`` is not a tensor with at least two dimensions and one layer.
    """
    if not isinstance(k, torch.Tensor):
        raise EconError("a tensor (B, T) for k", describe(k), "give a tensor of type torch.long")
    if k.ndim < 2 or not k.shape[-1]:
        raise EconError("k of shape (B, T)", str(tuple(k.shape)), "an expert for each layer")
    return k.shape[-1]


def as_list(name: str, values: Any, max_length: int | None = None) -> Sequence[Any]:
    """Convert an iterable to a non-empty list.

    Args:
        name: name of the argument, for the error message.
        values: the iterable.
        max_length: maximum number of elements; None: no limit.

    Raises:
        EconError: the value is a string or not iterable, or has too few or too many elements.
    """
    try:
        if isinstance(values, str):
            raise TypeError
        found = list(values)
    except TypeError:
        raise EconError(f"a list for {name}", describe(values)) from None
    as_int(name, len(found), maximum=max_length)
    return found


def check_memory(name: str, count: int, item_bytes: int) -> None:
    """Check that a requested number of items fits into memory.

    Args:
        name: name of the argument that sets the number.
        count: number of items.
        item_bytes: size of an item in bytes.

    Raises:
        EconError: the items need more than the machine's memory.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not available on this system
        return
    if count * item_bytes > memory:
        most = memory // item_bytes
        raise EconError(
            f"at most {most:,} for {name}, as memory allows ({memory / 2**30:.1f} GiB)",
            describe(count),
            "take fewer at a time",
        )


def as_device(value: Any) -> torch.device:
    """Convert to a torch device that can compute.

    Raises:
        EconError: torch does not know the device, or this machine does not have it.
    """
    expected = "a device, cpu or cuda"
    try:
        if value is None or isinstance(value, bool):
            raise TypeError
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise EconError(expected, describe(value)) from None
    if device.type == "meta":  # meta tensors have no values
        raise EconError(expected, describe(str(value)))
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        known = torch.cuda.device_count()
        has = f"cuda:0 to cuda:{known - 1}" if known else "none but the CPU"
        raise EconError(
            f"a device of this machine, which has {has}", describe(str(value)), 'use device="cpu"'
        ) from None
    return torch.device("cpu") if device.type == "cpu" else device  # there is one CPU device
