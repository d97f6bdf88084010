"""Which values the fields of a configuration may have, wherever they come from.

A configuration is read from files that others made and from a command line. What is checked here
is checked before anything is allocated by it: types by the fields' own annotations, and bounds
that are wider than any use we know of.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from econ_pyro.errors import EconError

Bounds = tuple[float | None, float]
"""Smallest and largest value of a number, or of each in a tuple; no smallest one if None."""
LARGEST_SIZE = 1024
"""Height and width of the largest images, in pixels."""
MOST = 1_000_000_000
"""Largest count of what costs no memory: steps, scenes."""
POSITIVE = 5e-324  # the smallest number above 0
_MOST_IN_A_TUPLE = 256

LATENTS: dict[str, Bounds] = {
    "dim": (1, 256),
    "reach": (POSITIVE, 2.0),
    "shape_dim": (None, 256),
}
ATTENTION: dict[str, Bounds] = {
    "channels": (1, 1024),
    "patch": (1, 64),
    "hidden": (1, 8192),
    "bias": (-100.0, 100.0),
    "colour_weight": (0.0, 1000.0),
    "place_weight": (0.0, 1000.0),
}
EXPERT: dict[str, Bounds] = {
    "layers": (1, 10),
    "features": (1, 1024),
    "shape_bias": (-100.0, 100.0),
}
COMPETITION: dict[str, Bounds] = {
    "lam": (0.0, 1e6),
    "temperature": (0.0, 1e6),
    "temperature_end": (POSITIVE, 1e6),
    "temperature_until": (None, MOST),
    "depth_order_from": (None, MOST),
}
MODEL: dict[str, Bounds] = {
    "num_experts": (1, 256),
    "num_slots": (1, 256),
    "size": (8, LARGEST_SIZE),
    "sigma_x": (POSITIVE, 1000.0),
}
OBJECTIVE: dict[str, Bounds] = {
    "beta": (0.0, 1e6),
    "gamma": (0.0, 1e6),
    "gamma_end": (0.0, 1e6),
    "gamma_until": (None, MOST),
}
SCHEDULE: dict[str, Bounds] = {
    "patience": (1, MOST),
    "decreases": (1, 1000),
    "warmup": (0, MOST),
}
TRAIN: dict[str, Bounds] = {
    "steps": (1, MOST),
    "minutes": (0.0, 1e7),
    "batch": (1, 65536),
    "lr": (POSITIVE, 1000.0),
    "validate_every": (1, MOST),
    "clip": (0.0, 1e9),
    "frozen": (None, 256),
    "train_scenes": (1, MOST),
    "valid_scenes": (1, 1_000_000),
}
RECIPE: dict[str, Bounds] = {
    "load_balancing": (0.0, 1e6),
    "load_balancing_limit": (0.0, 1e9),
    "load_balancing_until": (None, MOST),
    "restart_below": (0.0, 1000.0),
    "restart_every": (1, MOST),
    "restart_until": (None, MOST),
    "constant_colour_until": (None, MOST),
    "occlusion": (0.0, 1.0),
}
RUN: dict[str, Bounds] = {"seed": (0, 2**32 - 1)}


def check_fields(cls: type, config: Any, group: str, bounds: Mapping[str, Bounds]) -> None:
    """Check types and bounds of a configuration's fields.

    Args:
        cls: the dataclass whose fields count; ``config`` may be of a class under it.
        config: the configuration.
        group: name of the part of a configuration, for messages; empty for all of it.
        bounds: of the numbers in it, by field.

    Raises:
        EconError: a field has another type, or a number that is out of bounds or not finite.
    """
    for field, hint in _hints(cls).items():
        value = getattr(config, field)
        name = f"{group}.{field}".lstrip(".").replace("_", "-")
        if not _fits(value, hint):
            raise EconError(f"{_words(hint)} for {name}", shown(value))
        if isinstance(value, tuple):
            if len(value) > _MOST_IN_A_TUPLE:
                raise EconError(f"at most {_MOST_IN_A_TUPLE} values for {name}", str(len(value)))
            for part in value:
                _check_number(name, part, bounds.get(field))
        else:
            _check_number(name, value, bounds.get(field))


def shown(value: Any) -> str:
    """A value that is of no use, short enough for a message."""
    if isinstance(value, str):
        value = value[:80]
    elif isinstance(value, int) and abs(value) >= 10**30:
        return "a number of very many digits"
    elif isinstance(value, dict | list | tuple):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = "none" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_number(name: str, value: Any, bounds: Bounds | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise EconError(f"a finite number for {name}", str(value))
    low, high = bounds or (None, 10**30)
    if low is not None and value < low:
        words = f"a positive {name}" if low == POSITIVE else f"at least {low:g} for {name}"
        raise EconError(words, shown(value))
    if value > high:
        raise EconError(f"at most {_number(high)} for {name}", shown(value))
    if low is None and value < -high:
        raise EconError(f"at least {_number(-high)} for {name}", shown(value))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return len(value) == len(hints) and all(map(_fits, value, hints))
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, int | float if hint is float else hint)


def _words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(one) for one in args)
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list, each {_words(args[0])},"
        return f"a list of {len(args)}, each {_words(args[0])},"
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return "none" if hint is type(None) else named.get(hint, "an object")
