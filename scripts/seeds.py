"""Train a preset with several seeds and count successes: ``python scripts/seeds.py quick``.

Each seed is a separate run, which is trained and evaluated on held-out scenes. Existing runs are
resumed, or only read if they are complete; they have to be of the same options. The table shows
the scores of each run with their median and range, and the number of successes
(:mod:`econ_pyro.evaluation.success_criteria`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from econ_pyro import cli, errors
from econ_pyro.accel import cpu_cores
from econ_pyro.errors import EconError
from econ_pyro.evaluation.success_criteria import table
from econ_pyro.files import storage
from econ_pyro.scripts import svi_train
from econ_pyro.training import checkpoint, child_runs
from econ_pyro.training.child_runs import ChildProcesses
from econ_pyro.training.run_config import RunConfig, read_config

DONE = "held-out.json"
ASKED = "n"
"""Key of the number of scenes that were asked for in that file."""
NOTE = "training"
"""Key of what is to be said of a training that was stopped early."""
MAX_SHOWN = 5  # options of a configuration in an error message


@dataclass(frozen=True)
class Args:
    """Runs to train."""

    preset: tyro.conf.Positional[str] = "quick"
    """Preset to train: a name, or a file such as the config.json of a run."""
    seeds: str = "0-9"
    """Seeds, such as 0-9 or 0,3,7."""
    out: Path = Path("runs")
    """Folder of the runs, which are named PRESET-seed-SEED."""
    jobs: int = 1
    """Number of runs at a time, among which the CPU cores are divided."""
    n: int = 1000
    """Number of held-out scenes for the evaluation."""
    options: str = ""
    """Further options of svi_train.py, as one string: --options="--train.lr 1e-3 --no-amp"."""


@dataclass(frozen=True)
class SeedRun:
    """A run of one seed."""

    preset: str
    seed: int
    folder: Path
    options: tuple[str, ...] = ()
    """Further options of svi_train.py."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    cli.check_preset(parsed.preset)
    seeds = child_runs.parse_seeds(parsed.seeds)
    options = tuple(child_runs.words_of(parsed.options, "--options"))
    label = cli.label(parsed.preset)
    runs = [SeedRun(parsed.preset, s, parsed.out / f"{label}-seed-{s}", options) for s in seeds]
    check_same(runs)
    scores = dict(zip(seeds, train_all(runs, parsed.jobs, parsed.n), strict=True))
    print(table(scores, extra=("visible_iou", "oca", "minutes")))
    for seed, score in scores.items():
        if note := score.get(NOTE):
            print(f"seed {seed}: {note}")


def train_all(
    runs: Sequence[SeedRun], jobs: int, n: int, tolerant: bool = False
) -> list[dict[str, Any]]:
    """Train and evaluate runs, in child processes. Complete ones are only read.

    Args:
        runs: the runs, which :func:`check_same` has checked.
        jobs: number of runs at a time, among which the CPU cores are divided.
        n: number of held-out scenes.
        tolerant: whether a run that fails is reported, and has no scores; else it stops all.

    Returns:
        Scores of each run, and ``minutes``; :data:`NOTE` says where a run was stopped early.

    Raises:
        EconError: a run failed, or its scores are damaged.
    """
    errors.check_positive("--jobs", jobs)
    errors.check_positive("--n", n)
    children = ChildProcesses(cpu_cores.available_cores() // jobs)
    tasks = {run.folder.name: partial(_scores, run, n, children) for run in runs}
    scores = children.run_all(tasks, jobs, tolerant)
    return [scores.get(run.folder.name, {}) for run in runs]


def check_same(runs: Sequence[SeedRun]) -> None:
    """Check the options of runs, and that those that exist were begun with the same configuration.

    Raises:
        EconError: an option is wrong, or a run has another configuration.
    """
    planned = dict[tuple[str, ...], RunConfig]()
    for run in runs:
        arguments = run.preset, *run.options
        if arguments not in planned:
            planned[arguments] = svi_train.planned(arguments)
        if not (run.folder / checkpoint.CONFIG).exists():
            continue
        wanted, found = planned[arguments], read_config(run.folder)
        wanted = wanted._replace(config=replace(wanted.config, seed=run.seed))
        own, other = _as_options(wanted), _as_options(found)
        differing = [name for name in own | other if own.get(name) != other.get(name)]
        if differing:
            raise EconError(
                f"the configuration of {run.folder}, {_listed(other, differing)}",
                _listed(own, differing),
                "give the same options, delete that folder, or choose another --out",
            )


def _as_options(recorded: RunConfig) -> dict[str, Any]:
    """What a run is trained with, by option."""
    data = recorded._replace(data=recorded.data and recorded.data.absolute())._asdict()
    data["init_experts"] = [*data["init_experts"]]
    return cli.options(data.pop("config")) | {f"--{name}": value for name, value in data.items()}


def _listed(values: dict[str, Any], names: Sequence[str]) -> str:
    shown = [f"{name} {values[name]}" for name in names if name in values][:MAX_SHOWN]
    return ", ".join(shown) or "none of its options"


def complete(run: SeedRun, n: int) -> dict[str, Any] | None:
    """The scores of a complete run on so many scenes; None of another.

    Raises:
        EconError: they are damaged.
    """
    path = run.folder / DONE
    if not path.exists():
        return None
    scores = storage.read_json(path)
    asked = scores.pop(ASKED, scores.get("scenes"))
    _check_scores(scores, path)
    return scores if asked == n else None


def train(run: SeedRun, children: ChildProcesses) -> None:
    """Train a run in a child process, or go on with it.

    Raises:
        EconError: training failed or was stopped.
    """
    command = [str(Path(__file__).parent / "svi_train.py"), run.preset, "--seed", str(run.seed)]
    command += ["--run", str(run.folder), *run.options, *child_runs.resume_options(run.folder)]
    children.call(command, run.folder)


def _scores(run: SeedRun, n: int, children: ChildProcesses) -> dict[str, Any]:
    """Train and evaluate one run in child processes, as far as that has not been done."""
    if (scores := complete(run, n)) is not None:
        return scores
    folder, here = run.folder, Path(__file__).parent
    if not (folder / DONE).exists():
        train(run, children)
    children.call([str(here / "evaluate.py"), str(folder), "--n", str(n)], folder)
    minutes = child_runs.minutes_of(folder)
    training = storage.read_json(folder / "evaluation.json").get(NOTE)
    short = {NOTE: training} if isinstance(training, str) else {}
    scores = {**_held_out(folder / "evaluation.json"), "minutes": minutes, **short}
    storage.write_json(folder / DONE, {**scores, ASKED: n}, checksum=True)
    return scores


def _held_out(path: Path) -> dict[str, Any]:
    """Read the scores that evaluate.py wrote.

    Raises:
        EconError: the file has no scores.
    """
    report = storage.read_json(path).get("held-out")
    scores = report.get("metrics") if isinstance(report, dict) else None
    if not isinstance(scores, dict):
        raise EconError(f"scores of held-out scenes in {path}", "none", "run evaluate.py again")
    _check_scores(scores, path)
    return scores


def _check_scores(scores: dict[str, Any], path: Path) -> None:
    numbers = {name: v for name, v in scores.items() if name != NOTE}
    if not all(v is None or isinstance(v, int | float) for v in numbers.values()):
        raise EconError(f"numbers as scores in {path}", "others", "delete it and start again")


if __name__ == "__main__":
    cli.run(main)
