"""Train a preset with several seeds and count successes: ``python scripts/seeds.py quick``.

Each seed is a separate run, which is trained and evaluated on held-out scenes. Existing runs are
resumed, or only read if they are complete. The table shows the scores of each run with their
median and range, and the number of successes (:mod:`econ_pyro.evaluation.success_criteria`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from econ_pyro import cli, errors
from econ_pyro.accel import cpu_cores
from econ_pyro.errors import EconError
from econ_pyro.evaluation.success_criteria import table
from econ_pyro.files import storage
from econ_pyro.training import child_runs
from econ_pyro.training.child_runs import ChildProcesses

DONE = "held-out.json"
OPTIONS = "options"
"""Key of the preset and the options in that file."""


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
    seeds, options = child_runs.parse_seeds(parsed.seeds), tuple(parsed.options.split())
    label = cli.label(parsed.preset)
    runs = [SeedRun(parsed.preset, s, parsed.out / f"{label}-seed-{s}", options) for s in seeds]
    scores = dict(zip(seeds, train_all(runs, parsed.jobs, parsed.n), strict=True))
    print(table(scores, extra=("visible_iou", "oca", "minutes")))
    for seed, score in scores.items():
        if "training" in score:
            print(f"seed {seed}: {score['training']}")


def train_all(
    runs: Sequence[SeedRun], jobs: int, n: int, tolerant: bool = False
) -> list[dict[str, Any]]:
    """Train and evaluate runs, in child processes. Complete ones are only read.

    Args:
        runs: the runs.
        jobs: number of runs at a time, among which the CPU cores are divided.
        n: number of held-out scenes.
        tolerant: whether a run that fails is reported, and has no scores; else it stops all.

    Returns:
        Scores of each run, and ``minutes``; ``training`` says where a run was stopped early.

    Raises:
        EconError: a run failed, or was trained with other options.
    """
    errors.check_positive("--jobs", jobs)
    errors.check_positive("--n", n)
    children = ChildProcesses(cpu_cores.available_cores() // jobs)

    def scores_of(run: SeedRun) -> dict[str, Any]:
        try:
            return _train(run, n, children)
        except child_runs.ChildError as error:
            if not tolerant:
                raise
            print(f"warning: {run.folder.name}: {error}", file=sys.stderr, flush=True)
            return {}

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(scores_of, run) for run in runs]
        try:
            return [f.result() for f in futures]
        except BaseException as error:  # after a signal or the failure of a run, stop the others
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                children.stop()
            raise


def _train(run: SeedRun, n: int, children: ChildProcesses) -> dict[str, Any]:
    """Train and evaluate one run in child processes, unless that has been done."""
    folder, done = run.folder, run.folder / DONE
    if not done.exists():
        here = Path(__file__).parent
        train = [str(here / "svi_train.py"), run.preset, "--seed", str(run.seed)]
        train += ["--run", str(folder), *run.options, *child_runs.resume_options(folder)]
        children.call(train, folder)
        children.call([str(here / "evaluate.py"), str(folder), "--n", str(n)], folder)
        minutes = child_runs.minutes_of(folder)
        training = storage.read_json(folder / "evaluation.json").get("training")
        short = {"training": training} if isinstance(training, str) else {}
        scores = {**_held_out(folder / "evaluation.json"), "minutes": minutes, **short}
        stored = {**scores, OPTIONS: [run.preset, *run.options]}
        storage.write_json(done, stored, checksum=True)
    scores = storage.read_json(done)
    _check_options(run, scores.pop(OPTIONS, None))
    _check_scores(scores, done)
    return scores


def _check_options(run: SeedRun, before: Any) -> None:
    """Check that a complete run was trained with the options that are given, if any are.

    Raises:
        EconError: it was trained with others.
    """
    given = [run.preset, *run.options]
    if not run.options or not isinstance(before, list) or before == given:
        return
    same = 0  # what both begin with is not worth reading
    while same < min(len(before), len(given)) and before[same] == given[same]:
        same += 1
    was, now = (" ".join(map(str, words[same:])) or "nothing more" for words in (before, given))
    raise EconError(
        f"the options with which {run.folder} was trained ({was})",
        now,
        "give these, or another --out",
    )


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
    numbers = {name: v for name, v in scores.items() if name != "training"}
    if not all(v is None or isinstance(v, int | float) for v in numbers.values()):
        raise EconError(f"numbers as scores in {path}", "others", "delete it and start again")


if __name__ == "__main__":
    cli.run(main)
