"""Checks of the state in a checkpoint, besides the weights, before training resumes from it.

Torch's optimisers and schedulers accept any state and only fail later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.limits import MAX_COUNT

_MOMENTS = ("exp_avg", "exp_avg_sq")


def check_progress(state: Mapping[str, Any], source: Path) -> None:
    """Check the progress of training and the states of random number generators.

    Raises:
        EconError: a value is missing or invalid.
    """
    step, best, seconds = (state.get(name, source) for name in ("step", "best", "seconds"))
    if not _is_count(step):
        _refuse(source, "step")
    sums, asked = state.get("sums"), state.get("steps")
    if sums is not None and not (isinstance(sums, Tensor) and sums.dim() == 3 and len(sums)):
        _refuse(source, "sums")
    if asked is not None and not _is_count(asked):
        _refuse(source, "steps")
    if not _is_real(best) or math.isnan(best):  # infinite before the first validation
        _refuse(source, "best")
    if not _is_real(seconds) or not 0 <= seconds < MAX_COUNT:
        _refuse(source, "seconds")
    _check_generator(state.get("rng"), source)
    others = state.get("cuda_rng")
    if not isinstance(others, list) or not all(_is_bytes(one) for one in others):
        _refuse(source, "cuda_rng")
    horizon = state.get("horizon")
    if horizon is not None and not _is_count(horizon):
        _refuse(source, "horizon")


def check_optimiser(state: Any, shapes: Sequence[torch.Size], source: Path) -> None:
    """Check the state of Adam.

    Args:
        state: state from ``state_dict``.
        shapes: shapes of the parameters, in their order.
        source: the file, for the error message.

    Raises:
        EconError: the state is invalid, or that of other parameters.
    """
    groups = state.get("param_groups") if isinstance(state, dict) else None
    moments = state.get("state") if isinstance(state, dict) else None
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        _refuse(source, "optim")
    (group,) = groups
    held = group.get("params")
    if not isinstance(held, list) or not all(map(_is_count, held)):
        _refuse(source, "optim")
    if held != list(range(len(shapes))) or not _are_options(group):
        _refuse(source, "optim")
    if not isinstance(moments, dict):
        _refuse(source, "optim")
    for i, own in moments.items():
        if not _is_count(i) or i >= len(shapes) or not isinstance(own, dict):
            _refuse(source, "optim")
        if set(own) != {"step", *_MOMENTS}:
            _refuse(source, "optim")
        step = own["step"]
        if not isinstance(step, Tensor) or step.numel() != 1 or not step.is_floating_point():
            _refuse(source, "optim")
        for name in _MOMENTS:
            check_tensor(own[name], torch.empty(shapes[i], device="meta"), "optim", source)


def check_callbacks(state: Any, own: Mapping[str, Mapping[str, Any]], source: Path) -> None:
    """Check the states of callbacks, by name.

    Raises:
        EconError: a state is missing, invalid or belongs to another configuration.
    """
    if not isinstance(state, dict) or set(state) != set(own):
        _refuse(source, "callbacks")
    for name, values in own.items():
        if not all(isinstance(value, Tensor) for value in values.values()):
            check_schedule(state[name], values, source)
            continue
        if not isinstance(state[name], dict) or set(state[name]) != set(values):
            _refuse(source, name)
        for part, value in values.items():
            check_tensor(state[name][part], value, f"{name}.{part}", source)


def check_schedule(state: Any, own: Mapping[str, Any], source: Path) -> None:
    """Check that the state of a schedule has the fields and types of ``own``.

    Raises:
        EconError: the state is invalid.
    """
    if not isinstance(state, dict) or not set(state) <= set(own):
        _refuse(source, "schedule")
    for name, value in state.items():
        several = value if isinstance(value, list) else [value]
        plain = all(_is_real(v) or v is None or isinstance(v, str) for v in several)
        if isinstance(value, list) != isinstance(own[name], list) or not plain:
            _refuse(source, "schedule")
        if any(_is_real(v) and math.isnan(v) for v in several):
            _refuse(source, "schedule")
        if _is_real(own[name]) and not _is_real(value):
            _refuse(source, "schedule")
        if isinstance(own[name], str) and value != own[name]:  # modes are constant
            _refuse(source, "schedule")
        if isinstance(value, str) and not isinstance(own[name], str):
            _refuse(source, "schedule")
        if isinstance(value, list) and len(value) != len(own[name]):
            _refuse(source, "schedule")


def check_tensor(value: Any, own: Tensor, name: str, source: Path) -> None:
    """Check that a tensor has the shape of ``own`` and, as ``own``, integer or float values.

    Raises:
        EconError: the tensor is invalid.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex():
        _refuse(source, name)
    if value.shape != own.shape or value.is_floating_point() != own.is_floating_point():
        _refuse(source, name)


def _check_generator(state: Any, source: Path) -> None:
    if not _is_bytes(state):
        _refuse(source, "rng")
    try:
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError):
        _refuse(source, "rng")


def _is_bytes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() == 1


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _are_options(group: Mapping[str, Any]) -> bool:
    """Whether the options of a parameter group are valid for Adam."""
    betas = group.get("betas")
    if not _is_rate(group.get("lr")):
        return False
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        return False
    if not all(_is_real(beta) and 0 <= beta < 1 for beta in betas):
        return False
    if not all(_is_real(group.get(n, "")) and 0 <= group[n] < 1 for n in ("eps", "weight_decay")):
        return False
    numbers = ("params", "lr", "betas", "eps", "weight_decay")
    rest = {name: value for name, value in group.items() if name not in numbers}
    return all(_is_rate(v) if n == "initial_lr" else _is_switch(v) for n, v in rest.items())


def _is_rate(value: Any) -> bool:
    return _is_real(value) and 0 < value < math.inf


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _refuse(source: Path, name: str) -> NoReturn:
    raise EconError(
        f"a checkpoint of this run in {source}",
        f"one with another kind of {name!r}",
        "it is damaged or belongs to another configuration: restart with --overwrite",
    )
