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


def _share(step: int, steps: int) -> float:
    return min(1.0, step / max(1, steps))


def _geometric(start: float, end: float, share: float) -> float:
    return start * (end / start) ** share
