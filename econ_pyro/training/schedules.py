"""Weights and rates that change over training, as functions of the step since its beginning."""

from __future__ import annotations

import math

from econ_pyro.config import Config


def gamma_at(config: Config, step: int) -> float:
    """Weight of L_r: linear from gamma to gamma_end."""
    objective = config.objective
    end = objective.gamma if objective.gamma_end is None else objective.gamma_end
    share = _share(step, objective.gamma_steps)
    return objective.gamma + share * (end - objective.gamma)


def age(config: Config, step: int) -> int:
    """Steps since the beginning that is being trained (``train.tries``)."""
    train = config.train
    if step < train.tries * train.try_steps:
        return step % train.try_steps
    return step - (train.tries - 1) * train.try_steps


def temperature_at(config: Config, step: int) -> float:
    """Temperature of the competition in nats: geometric from temperature to temperature_end."""
    objective = config.objective
    start, end = objective.temperature, objective.temperature_end
    if end is None:
        return start
    return _geometric(start, end, _share(step, objective.temperature_steps))


def rate_at(config: Config, step: int) -> float:
    """Learning rate of the cosine schedule: linear warm-up, then down to a hundredth."""
    train = config.train
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    steps = train.steps - (train.tries - 1) * train.try_steps  # of the one that goes on
    share = _share(step - train.warmup, steps - train.warmup)
    return train.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def unfinished(config: Config, step: int) -> list[str]:
    """What a run that ended before its last step has not come to.

    Args:
        config: of the run; ``train.steps`` is where it was to end.
        step: where it ended.

    Returns:
        A phrase for each schedule; none of a run that did all of its steps.
    """
    train, objective = config.train, config.objective
    reached, planned = age(config, step), age(config, train.steps)
    if step >= train.steps:
        return []
    moving = {
        "the end of the cosine rate": planned if train.schedule == "cosine" else 0,
        "objective.gamma-end": _moves(objective.gamma, objective.gamma_end, objective.gamma_steps),
        "objective.temperature-end": _moves(
            objective.temperature, objective.temperature_end, objective.temperature_steps
        ),
    }
    turns = {
        "objective.order-from": objective.order_from or 0,
        "objective.balance-until": objective.balance_until if objective.balance > 0 else 0,
        "train.flat-until": train.flat_until,
        "train.restart-until": train.restart_until if train.restart_below > 0 else 0,
    }
    # what lies beyond the last step was not to be reached; what moves was to come as far as that
    due = {name: min(end, planned) for name, end in moving.items()}
    due |= {name: at for name, at in turns.items() if at <= planned}
    return [f"{name} (step {at})" for name, at in due.items() if at > reached]


def _moves(start: float, end: float | None, steps: int) -> int:
    return 0 if end is None or end == start else steps


def lowest_rate(config: Config) -> float:
    """Rate below which the plateau schedule has fallen as often as it may."""
    return config.train.lr * 10 ** (-0.5 * (config.train.decreases - 0.5))


def _share(step: int, steps: int) -> float:
    return min(1.0, step / max(1, steps))


def _geometric(start: float, end: float, share: float) -> float:
    return start * (end / start) ** share
