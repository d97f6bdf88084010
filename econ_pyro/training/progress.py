"""Description of runs that have not completed their steps."""

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
    """Describe the progress of a run that is not complete.

    Args:
        config: configuration of the run, with the number of steps in ``train.steps``.
        step: number of completed steps.
        rate: learning rate of the optimiser.
        seconds: training time so far.
        horizon: horizon of the schedules; ``train.steps`` if not given.

    Returns:
        One line; empty for a complete run.
    """
    left = unfinished(config, step, horizon or config.train.steps)
    schedule = config.train.schedule
    if step >= config.train.steps:
        return ""
    line = f"training has come to step {step} of {config.train.steps}"
    over = isinstance(schedule, PlateauSchedule) and rate < lowest_rate(config.train.lr, schedule)
    if over and isinstance(schedule, PlateauSchedule):
        line += f", where the learning rate had fallen {schedule.decreases} times"
    if left:
        line += f"; its schedule is unfinished, not reached: {', '.join(left)}"
    if over:
        return f"{line}: start a new run with shorter schedules" if left else ""
    minutes = config.train.minutes
    spent = minutes is not None and seconds >= 60 * minutes
    return f"{line}: go on with --resume{' and more --minutes' if spent else ''}"


def describe_run(run: Path, config: Config) -> str:
    """:func:`describe` for the folder of a run; empty without a readable checkpoint."""
    path = run / checkpoint.LAST
    try:
        state = checkpoint.load_checkpoint(path)
    except EconError:  # published weights, or a damaged file, which is reported when it is needed
        return ""
    steps = state.get("steps", config.train.steps)  # may have been changed with --resume
    config = replace(config, train=replace(config.train, steps=steps))
    rate = state["optim"]["param_groups"][0]["lr"]
    return describe(config, state["step"], rate, state["seconds"], state.get("horizon"))
