"""Files of format 1 (econ-pyro 0.1): one table of what moved, for configurations and weights.

Format 1 had one class for all kinds of parts, told apart by flags; ``_MOVED`` says where each
option went, and :func:`upgraded_config` which kinds the flags mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from econ_pyro.errors import EconError, describe, printable

_MOVED = {
    "model.experts": "model.num_experts",
    "model.steps": "model.num_slots",
    "model.expert.latent": "model.expert.latents.dim",
    "model.expert.reach": "model.expert.latents.reach",
    "model.expert.scaled": "model.expert.latents.size",
    "model.expert.shape_latents": "model.expert.latents.shape_dim",
    "model.expert.channels": "model.expert.attention.channels",
    "model.expert.patch": "model.expert.attention.patch",
    "model.expert.hidden": "model.expert.attention.hidden",
    "model.expert.attention_bias": "model.expert.attention.bias",
    "model.expert.colour_weight": "model.expert.attention.colour_weight",
    "model.expert.place_weight": "model.expert.attention.place_weight",
    "objective.gamma_steps": "objective.gamma_until",
    "objective.lam": "model.competition.lam",
    "objective.temperature": "model.competition.temperature",
    "objective.temperature_end": "model.competition.temperature_end",
    "objective.temperature_steps": "model.competition.temperature_until",
    "objective.order_from": "model.competition.depth_order_from",
    "objective.refine": "model.competition.refine",
    "objective.balance": "recipe.load_balancing",
    "objective.balance_limit": "recipe.load_balancing_limit",
    "objective.balance_until": "recipe.load_balancing_until",
    "objective.occlude": "recipe.occlusion",
    "objective.units": "recipe.whitening",
    "train.warmup": "train.schedule.warmup",
    "train.patience": "train.schedule.patience",
    "train.decreases": "train.schedule.decreases",
    "train.flat_until": "recipe.constant_colour_until",
    "train.restart_below": "recipe.restart_below",
    "train.restart_every": "recipe.restart_every",
    "train.restart_until": "recipe.restart_until",
    "true_regions": "gt_masks",
    "graphs": "cuda_graphs",
}
_DROPPED = ("train.tries", "train.try_steps")  # several beginnings of one run: no longer offered
_POSE = ("reach", "size", "shape_dim")
_SEEDED = ("colour_weight", "place_weight")
_FLAGS = {  # which kind a flag means if it is set or not, and which options only the first has
    "model.expert.centred": ("model.expert.latents", "pose", "free", _POSE),
    "model.expert.seeded": ("model.expert.attention", "seeded", "unet", _SEEDED),
}
_WEIGHTS = ((r"\.units\.", ".whitening."), (r"\.both\.", ".layers."))


def upgraded_config(values: Any, version: Any, where: str) -> Any:
    """The options of a run in the present format.

    Args:
        values: the options, as JSON has them.
        version: the file's field ``format``; None in format 1.
        where: the file, for error messages.

    Raises:
        EconError: the file is of a later format; or of kinds that are no longer there.
    """
    if version == 2:
        return values
    if version is not None:
        raise EconError(
            f"format 1 or 2 in {where}", describe(version), "a later econ-pyro reads it"
        )
    if not isinstance(values, dict):
        return values
    flat = _flat(values)
    kinds: dict[str, Any] = {}
    for flag, (group, if_set, otherwise, only) in _FLAGS.items():
        on = flat.pop(flag, False)
        if not isinstance(on, bool):
            raise EconError(f"true or false for {flag} in {where}", describe(on))
        kinds[group] = if_set if on else otherwise
        absent = ("bias",) if on else only
        for name in absent:
            old = _old_name(f"{group}.{name}")
            value = flat.pop(old, None)
            if name in ("size", "shape_dim") and value:
                raise EconError(
                    f"model.expert.centred with {old} in {where}",
                    "no-centred",
                    "econ-pyro 0.1 reads it",
                )
    kinds["train.schedule"] = flat.pop("train.schedule", "plateau")
    cosine = kinds["train.schedule"] == "cosine"
    for name in ("patience", "decreases") if cosine else ("warmup",):
        flat.pop(f"train.{name}", None)
    kinds["recipe"] = "econ"
    joint = kinds["model.expert.attention"] == "seeded"
    kinds["model.competition"] = "joint" if joint else "greedy"
    if not joint:
        flat.pop("objective.order_from", None)
    for name in _DROPPED:
        flat.pop(name, None)
    moved = {_MOVED.get(name, name): value for name, value in flat.items()}
    return _nested({**{f"{group}.kind": kind for group, kind in kinds.items()}, **moved})


def upgraded_expert(values: Any, version: Any, where: str) -> Any:
    """The options of an expert alone in the present format; arguments as before."""
    whole = upgraded_config({"model": {"expert": values}}, version, where)
    return whole["model"]["expert"]


def upgraded_weights(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by their present names."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in _WEIGHTS:
            name = re.sub(old, new, name)
        renamed[name] = tensor
    return renamed


def upgraded_checkpoint(
    state: dict[str, Any], callbacks_in_use: Collection[str] | None = None
) -> dict[str, Any]:
    """A checkpoint in the present format; what is damaged is left for later checks.

    Args:
        state: the checkpoint.
        callbacks_in_use: names of the run's callbacks. Format 1 has states of all of them, also
            of those that are switched off, which are left out here.
    """
    if "format" in state or "model" not in state:
        return state
    weights = {}
    for part in ("model", "guide"):
        own = state.get(part)
        if not isinstance(own, dict):
            return state
        weights.update({f"{part}.{name}": tensor for name, tensor in own.items()})
    callbacks = {}
    if "handicap" in state:
        callbacks["load_balancing"] = {"bias": state["handicap"]}
    if "window" in state:
        callbacks["restarts"] = {"wins": state["window"]}
    if "schedule" in state:
        callbacks["schedule"] = state["schedule"]
    if callbacks_in_use is not None:
        callbacks = {n: v for n, v in callbacks.items() if n in callbacks_in_use}
    kept = {n: v for n, v in state.items() if n not in ("model", "guide", "schedule", "rival")}
    return {**kept, "weights": upgraded_weights(weights), "callbacks": callbacks}


def _old_name(new: str) -> str:
    return next((old for old, moved in _MOVED.items() if moved == new), new)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted names; scenes are not taken apart."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if "." in name:  # no field's name has one
            raise EconError("the fields of format 1", f"unknown {printable(name)}")
        dotted = f"{above}{name}"
        if isinstance(value, dict) and dotted != "scenes":
            found.update(_flat(value, f"{dotted}."))
        else:
            found[dotted] = value
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse."""
    found: dict[str, Any] = {}
    for dotted, value in values.items():
        *groups, name = dotted.split(".")
        part = found
        for group in groups:
            part = part.setdefault(group, {})
        part[name] = value
    return found
