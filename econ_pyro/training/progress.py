"""What there is to say of a run that has not done all of its steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from econ_pyro.config import Config, PlateauSchedule
from econ_pyro.errors import EconError
from econ_pyro.training import checkpoint
from econ_pyro.training.schedules import lowest_rate, unfinished


def describe(
    config: Config, step: int, rate: float, seconds: float, horizon: int | None = None
) -> str:
    """How far a run has come, if not to the end.

    Args:
        config: of the run; ``train.steps`` is where it is to end.
        step: steps done.
        rate: the optimiser's learning rate.
        seconds: of training so far.
        horizon: of its schedules; ``train.steps`` if not given.

    Returns:
        One line; empty of a run that did all of its steps.
    """
    left = unfinished(config, step, horizon or config.train.steps)
    schedule = config.train.schedule
    if step >= config.train.steps:
        return ""
    line = f"training has come to step {step} of {config.train.steps}"
    over = isinstance(schedule, PlateauSchedule) and rate < lowest_rate(config.train.lr, schedule)
    if over and isinstance(schedule, PlateauSchedule):
        line += f", where the rate had fallen {schedule.decreases} times"
    if left:
        line += f"; its schedule is unfinished, not reached: {', '.join(left)}"
    if over:
        return f"{line}: a new run reaches it with shorter schedules" if left else ""
    minutes = config.train.minutes
    spent = minutes is not None and seconds >= 60 * minutes
    return f"{line}: go on with --resume{' and more --minutes' if spent else ''}"


def describe_run(run: Path, config: Config) -> str:
    """The same of a run's folder; empty also where there is no checkpoint that says it."""
    path = run / checkpoint.LAST
    try:
        state = checkpoint.load_checkpoint(path)
    except EconError:  # published weights; a damaged file, of which whoever needs it will tell
        return ""
    steps = state.get("steps", config.train.steps)  # --resume may have asked for more
    config = replace(config, train=replace(config.train, steps=steps))
    rate = state["optim"]["param_groups"][0]["lr"]
    return describe(config, state["step"], rate, state["seconds"], state.get("horizon"))
