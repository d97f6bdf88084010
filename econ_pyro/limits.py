"""Types and bounds of configuration fields.

Configurations come from the command line and from untrusted files, so they are checked before
anything is allocated: types against the annotations of the fields, numbers against bounds that
are wider than any known use.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from econ_pyro.errors import EconError, describe

Bounds = tuple[float | None, float]
"""Minimum and maximum of a number, or of each in a tuple; a minimum of None means -maximum."""
MAX_SIZE = 1024
"""Maximum height and width of images in pixels."""
MAX_COUNT = 1_000_000_000
"""Maximum of counts that take no memory, such as training steps and scenes."""
MAX_ORDERED_LAYERS = 7
"""Maximum number of layers of which every depth order is tried: 720 orders."""
POSITIVE = 5e-324  # smallest positive float
_MAX_IN_A_TUPLE = 256

LATENTS: dict[str, Bounds] = {
    "dim": (1, 256),
    "reach": (POSITIVE, 2.0),
    "largest": (POSITIVE, 100.0),
    "shape_dim": (None, 256),
}
ATTENTION: dict[str, Bounds] = {
    "channels": (1, 1024),
    "patch": (1, 64),
    "hidden": (1, 8192),
    "learnt": (0, 256),
    "shifts": (0, 100),
    "pretrained_weight": (0.0, 1000.0),
    "pretrained_dim": (1, 256),
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
    "temperature_until": (None, MAX_COUNT),
    "refine_rounds": (1, 100),
    "refine_steps": (0, 1000),
    "outliers": (0.0, 0.5),
    "layer_covariance": (0.0, 1.0),
    "covariance_floor": (1e-3, 1.0),
    "feature_weight": (0.0, 1.0),
    "depth_order_from": (None, MAX_COUNT),
}
MODEL: dict[str, Bounds] = {
    "num_experts": (1, 256),
    "num_slots": (1, 256),
    "size": (8, MAX_SIZE),
    "sigma_x": (POSITIVE, 1000.0),
    "light": (0.0, 10.0),
}
MONET: dict[str, Bounds] = {
    "num_slots": MODEL["num_slots"],
    "size": MODEL["size"],
    "sigma": (POSITIVE, 1000.0),
    "sigma_background": (POSITIVE, 1000.0),
    "latent_dim": (1, 256),
    "layers": EXPERT["layers"],
    "features": EXPERT["features"],
    "channels": ATTENTION["channels"],
    "hidden": ATTENTION["hidden"],
}
GENESIS: dict[str, Bounds] = {
    "mask_dim": (1, 1024),
    "component_dim": (1, 256),
    **{name: MONET[name] for name in ("num_slots", "size", "sigma", "layers", "features")},
    **{name: MONET[name] for name in ("channels", "hidden")},
}
GENESIS_V2: dict[str, Bounds] = {
    "embedding_dim": (2, 256),
    "colour_weight": (0.0, 1e3),
    "spread": (POSITIVE, 1e3),
    **{name: MONET[name] for name in ("num_slots", "size", "sigma", "latent_dim", "features")},
    **{name: MONET[name] for name in ("channels", "hidden")},
}
SLOT_ATTENTION: dict[str, Bounds] = {
    "iterations": (1, 100),
    **{name: MONET[name] for name in ("num_slots", "size", "sigma", "latent_dim")},
    **{name: MONET[name] for name in ("layers", "features", "hidden")},
}
IODINE: dict[str, Bounds] = {
    "rounds": (1, 100),
    **{name: MONET[name] for name in ("num_slots", "size", "sigma", "latent_dim", "layers")},
    **{name: MONET[name] for name in ("features", "hidden")},
}
MRBM: dict[str, Bounds] = {
    "num_slots": (1, MAX_ORDERED_LAYERS),
    "size": MODEL["size"],
    "sigma": (1e-3, 1000.0),
    "appearance_units": (1, 8192),
    "shape_units": (1, 8192),
    "sweeps": (1, 100_000),
    "cd_steps": (1, 1000),
    "infer_sweeps": (1, 100_000),
    "sample_sweeps": (0, 1_000_000),
}
GECO: dict[str, Bounds] = {
    "goal": (None, 1e6),
    "start": (POSITIVE, 1e6),
    "rate": (0.0, 1e3),
    "speed_up": (0.0, 1e6),
    "smoothing": (0.0, 1.0),
    "smallest": (1e-10, 1e6),
}
OBJECTIVE: dict[str, Bounds] = {
    "beta": (0.0, 1e6),
    "gamma": (0.0, 1e6),
    "gamma_end": (0.0, 1e6),
    "gamma_until": (None, MAX_COUNT),
    "smallest_region": (0, MAX_SIZE**2),
}
SCHEDULE: dict[str, Bounds] = {
    "patience": (1, MAX_COUNT),
    "decreases": (1, 1000),
    "warmup": (0, MAX_COUNT),
}
TRAIN: dict[str, Bounds] = {
    "steps": (1, MAX_COUNT),
    "minutes": (0.0, 1e7),
    "batch": (1, 65536),
    "lr": (POSITIVE, 1000.0),
    "validate_every": (1, MAX_COUNT),
    "clip": (0.0, 1e9),
    "frozen": (None, 256),
    "train_scenes": (1, MAX_COUNT),
    "valid_scenes": (1, 1_000_000),
}
RECIPE: dict[str, Bounds] = {
    "load_balancing": (0.0, 1e6),
    "load_balancing_limit": (0.0, 1e9),
    "load_balancing_until": (None, MAX_COUNT),
    "restart_below": (0.0, 1000.0),
    "restart_every": (1, MAX_COUNT),
    "restart_until": (None, MAX_COUNT),
    "constant_colour_until": (None, MAX_COUNT),
    "grouping_images": (0, 100_000),
    "grouping_steps": (1, MAX_COUNT),
    "grouping_fixed_until": (None, MAX_COUNT),
    "self_training_images": (0, 100_000),
    "self_training_rounds": (1, 100),
    "self_training_steps": (1, MAX_COUNT),
    "shape_clusters": (0, 100_000),
    "clusters_shaded": (0.0, 100.0),
    "clusters_coloured": (0.0, 100.0),
    "shapes_fixed_until": (None, MAX_COUNT),
    "occlusion": (0.0, 1.0),
}
TEACHING: dict[str, Bounds] = {
    "weight": (0.0, 1e6),
    "start": (None, MAX_COUNT),
    "seeds_until": (None, MAX_COUNT),
    "rounds": (1, 100),
    "recomposed": (0.0, 1.0),
    "recoloured": (0.0, 1.0),
    "leftovers": (0.0, 1.0),
    "colour_weight": (0.0, 1000.0),
    "place_weight": (0.0, 1000.0),
}
CORRUPTIONS: dict[str, Bounds] = {
    "grey": (0.0, 1.0),
    "texture": (0.0, 1.0),
    "shading": (0.0, 1.0),
    "outline": (0.0, 1.0),
    "contrast": (0.0, 1.0),
    "blur": (0.0, 100.0),
    "speckle": (0.0, 1.0),
    "noise": (0.0, 1.0),
    "jpeg": (1, 100),
}
AUGMENT: dict[str, Bounds] = {
    "share": (0.0, 1.0),
    "start": (None, MAX_COUNT),
    **{kind: bounds for kind, bounds in CORRUPTIONS.items() if kind != "speckle"},
}
RUN: dict[str, Bounds] = {"seed": (0, 2**32 - 1)}


def check_fields(cls: type, config: Any, group: str, bounds: Mapping[str, Bounds]) -> None:
    """Check types and bounds of a configuration's fields.

    Args:
        cls: the dataclass whose fields are checked; ``config`` may be of a subclass.
        config: the configuration.
        group: name of the part of the configuration, for messages; empty for the whole.
        bounds: bounds of numbers, by field.

    Raises:
        EconError: a field has the wrong type, or a number is out of bounds or not finite.
    """
    for field, hint in hints_of(cls).items():
        value = getattr(config, field)
        name = f"{group}.{field}".lstrip(".").replace("_", "-")
        if not _fits(value, hint):
            raise EconError(f"{_type_name(hint)} for {name}", describe(value))
        if isinstance(value, tuple):
            if len(value) > _MAX_IN_A_TUPLE:
                raise EconError(f"at most {_MAX_IN_A_TUPLE} values for {name}", str(len(value)))
            for part in value:
                _check_number(name, part, bounds.get(field))
        else:
            _check_number(name, value, bounds.get(field))


def _check_number(name: str, value: Any, bounds: Bounds | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise EconError(f"a finite number for {name}", str(value))
    low, high = bounds or (None, 10**30)
    if low is not None and value < low:
        expected = f"a positive {name}" if low == POSITIVE else f"at least {low:g} for {name}"
        raise EconError(expected, describe(value))
    if value > high:
        raise EconError(f"at most {_format(high)} for {name}", describe(value))
    if low is None and value < -high:
        raise EconError(f"at least {_format(-high)} for {name}", describe(value))


def _format(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, which are evaluated once."""
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


def _type_name(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(one) for one in args)
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list, each {_type_name(args[0])},"
        return f"a list of {len(args)}, each {_type_name(args[0])},"
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return "none" if hint is type(None) else named.get(hint, "an object")
