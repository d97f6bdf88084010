"""Weights and rates that change over training, as functions of the step and the horizon.

The *horizon* is the step at which training is expected to end: ``train.steps``, or fewer where
``train.minutes`` will end it (``training/trainer.py``). What is given in steps counts from the
beginning; what is given as a share of the run follows the horizon.
"""

from __future__ import annotations

import math
from typing import Any

from econ_pyro.config import Config, CosineSchedule, PlateauSchedule, TeachingConfig, additions
from econ_pyro.model_config import Duration, JointOptions


def steps_of(duration: Duration, horizon: int) -> float:
    """Training steps that a duration stands for."""
    if isinstance(duration, str):
        return float(duration.removesuffix("%")) * horizon / 100
    return duration


def gamma_at(config: Config, step: int, horizon: int) -> float:
    """Weight of L_r: linear from gamma to gamma_end."""
    objective = config.objective
    share = _share(step, steps_of(objective.gamma_until, horizon))
    return objective.gamma + share * (last_gamma(config) - objective.gamma)


def last_gamma(config: Config) -> float:
    """Weight of L_r after warm-up."""
    objective = config.objective
    return objective.gamma if objective.gamma_end is None else objective.gamma_end


def temperature_at(competition: Any, step: int, horizon: int) -> float:
    """Temperature of a competition in nats: geometric from temperature to temperature_end."""
    start, end = competition.temperature, competition.temperature_end
    if end is None:
        return start
    share = _share(step, steps_of(competition.temperature_until, horizon))
    return start * (end / start) ** share


def last_temperature(competition: Any) -> float:
    """Temperature after annealing."""
    end = competition.temperature_end
    return competition.temperature if end is None else end


def rate_at(config: Config, step: int, horizon: int) -> float:
    """Learning rate of the cosine schedule: linear warm-up, then down to a hundredth."""
    train = config.train
    assert isinstance(train.schedule, CosineSchedule)
    warmup = train.schedule.warmup
    if step < warmup:
        return train.lr * (step + 1) / warmup
    share = _share(step - warmup, horizon - warmup)
    return train.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def lowest_rate(lr: float, schedule: PlateauSchedule) -> float:
    """Rate below which the plateau schedule has fallen as often as it may."""
    return lr * 10 ** (-0.5 * (schedule.decreases - 0.5))


def unfinished(config: Config, step: int, horizon: int) -> list[str]:
    """Schedules that a run which ended before its last step has not completed.

    Args:
        config: of the run; ``train.steps`` is where it was to end.
        step: where it ended.
        horizon: of its schedules.

    Returns:
        A phrase for each schedule; none of a run that did all of its steps.
    """
    train, objective, recipe = config.train, config.objective, additions(config)
    planned = train.steps
    if step >= planned:
        return []
    competition: Any = getattr(config.model, "competition", None)
    cosine = isinstance(train.schedule, CosineSchedule)
    moving: dict[str, Duration] = {"the end of the cosine rate": "100%" if cosine else 0}
    if objective.gamma_end not in (None, objective.gamma):
        moving["objective.gamma-until"] = objective.gamma_until
    if competition is not None and competition.temperature_end not in (
        None,
        competition.temperature,
    ):
        moving["model.competition.temperature-until"] = competition.temperature_until
    turns: dict[str, Duration] = {}
    if isinstance(competition, JointOptions) and competition.depth_order_from is not None:
        turns["model.competition.depth-order-from"] = competition.depth_order_from
    if recipe.load_balancing > 0:
        turns["recipe.load-balancing-until"] = recipe.load_balancing_until
    if recipe.restart_below > 0:
        turns["recipe.restart-until"] = recipe.restart_until
    if isinstance(config.teaching, TeachingConfig):
        turns["teaching.start"] = config.teaching.start
        turns["teaching.seeds-until"] = config.teaching.seeds_until
        if config.augment.kinds:
            turns["augment.start"] = config.augment.start
    turns["recipe.constant-colour-until"] = recipe.constant_colour_until

    def last(until: Duration) -> int:  # shares of the run are complete at the horizon
        return horizon if isinstance(until, str) else planned

    # what lies beyond the last step was not to be reached; what moves was to come as far as that
    due = {name: min(steps_of(end, horizon), last(end)) for name, end in moving.items()}
    at = {name: steps_of(turn, horizon) for name, turn in turns.items()}
    due |= {name: end for name, end in at.items() if end < last(turns[name])}
    return [f"{name} (step {end:.0f})" for name, end in due.items() if end > step]


def _share(step: float, steps: float) -> float:
    return min(1.0, step / max(1, steps))
