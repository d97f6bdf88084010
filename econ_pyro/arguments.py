"""Numbers, experts and devices that a user gives: what they must be, or an error that says so."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from econ_pyro.errors import EconError

MOST_STEPS = 256
"""Layers of a scene, at the most."""
_BOOLS = (torch.bool, np.dtype(bool))
LARGEST_SEED = 2**64 - 1  # of torch's generators


def whole(name: str, value: Any, least: int | None = 1, most: int | None = None) -> int:
    """A whole number; NumPy's integers will do.

    Args:
        name: of the argument, for the error message.
        value: what came.
        least: the smallest that makes sense; None: any.
        most: the largest; None: any.

    Raises:
        EconError: it is of another type, too small or too large.
    """
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) in _BOOLS:  # 0 and 1 to Python
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise EconError(f"a whole number for {name}", short(value)) from None
    if least is not None and number < least:
        raise EconError(f"at least {least} for {name}", short(number))
    if most is not None and number > most:
        raise EconError(f"at most {most:,} for {name}", short(number))
    return number


def number(what: str, value: Any, least: float) -> float:
    """A finite number.

    Args:
        what: it is to be, for the error message.
        value: what came.
        least: the smallest that makes sense.

    Raises:
        EconError: it is of another type, too small, infinite or NaN.
    """
    try:
        if isinstance(value, bool | str):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise EconError(what, short(value)) from None
    if not least <= found < float("inf"):
        raise EconError(what, short(value))
    return found


def seed_of(value: Any) -> int:
    """A seed of torch's generators.

    Raises:
        EconError: it is no whole number from 0 to 2^64 - 1.
    """
    return whole("seed", value, 0, LARGEST_SEED)


def expert(value: Any, experts: int) -> int:
    """Index of one of K experts. Negative ones do not count from the end.

    Raises:
        EconError: it is no whole number, or there is no such expert.
    """
    if isinstance(value, str):
        raise EconError("an expert by its index", short(value), "sample takes names as scene=")
    index = whole("the index of an expert", value, least=None)
    if not 0 <= index < experts:
        raise no_such_expert(index, experts)
    return index


def no_such_expert(index: Any, experts: int, where: str = "") -> EconError:
    """The error of an index that no expert has.

    Args:
        index: what came.
        experts: their number K.
        where: it came, as in ``" in k_2"``.
    """
    expected = f"an expert from 0 to {experts - 1}"
    return EconError(expected, f"{short(index)}{where}", f"the model has K = {experts} experts")


def layers_of(k: Any) -> int:
    """Number of layers T of experts ``(..., B, T)``.

    Raises:
        EconError: it is no tensor of at least two axes and one layer.
    """
    if not isinstance(k, torch.Tensor):
        raise EconError("a tensor (B, T) for k", short(k), "give a tensor of type torch.long")
    if k.ndim < 2 or not k.shape[-1]:
        raise EconError("k of shape (B, T)", str(tuple(k.shape)), "an expert for each layer")
    return k.shape[-1]


def listed(name: str, values: Any, most: int | None = None) -> Sequence[Any]:
    """Several things, at least one.

    Args:
        name: of the things, for the error message.
        values: what came.
        most: how many there may be; None: any number.

    Raises:
        EconError: it is a single thing, a string, or empty, or there are too many.
    """
    try:
        if isinstance(values, str):
            raise TypeError
        found = list(values)
    except TypeError:
        raise EconError(f"a list for {name}", short(values)) from None
    whole(name, len(found), most=most)
    return found


def check_memory(name: str, count: int, each: int) -> None:
    """Check that what is asked for can be held at once.

    Args:
        name: of the argument that says how many.
        count: how many.
        each: bytes of each.

    Raises:
        EconError: it is more than the machine has memory.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such question on this system
        return
    if count * each > memory:
        raise EconError(
            f"at most {memory // each:,} for {name}, as memory allows ({memory / 2**30:.1f} GiB)",
            f"{short(count)}",
            "take fewer at a time",
        )


def as_device(value: Any) -> torch.device:
    """A device that can compute, by its name in torch.

    Raises:
        EconError: torch knows none of that name, or this machine has none.
    """
    expected = "a device, cpu or cuda"
    try:
        if value is None or isinstance(value, bool):
            raise TypeError
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise EconError(expected, short(value)) from None
    if device.type == "meta":  # holds no numbers
        raise EconError(expected, short(str(value)))
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        known = torch.cuda.device_count()
        has = f"cuda:0 to cuda:{known - 1}" if known else "none but the CPU"
        raise EconError(
            f"a device of this machine, which has {has}", short(str(value)), 'use device="cpu"'
        ) from None
    return torch.device("cpu") if device.type == "cpu" else device  # torch knows of one


def short(value: Any) -> str:
    """A value for an error message, in one line and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integers of thousands of digits
        text = "an integer of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
