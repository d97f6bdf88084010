"""Train a preset with several seeds and count successes: ``python scripts/seeds.py quick``.

Each seed is a separate run, which is trained and evaluated on held-out scenes. Existing runs are
resumed, or only read if they are complete. The table shows the scores of each run with their
median and range, and the number of successes (:mod:`econ_pyro.evaluation.success_criteria`).
"""

from __future__ import annotations

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


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    cli.check_preset(parsed.preset)
    errors.check_positive("--jobs", parsed.jobs)
    errors.check_positive("--n", parsed.n)
    seeds = child_runs.parse_seeds(parsed.seeds)
    children = ChildProcesses(cpu_cores.available_cores() // parsed.jobs)
    with ThreadPoolExecutor(parsed.jobs) as pool:
        futures = [pool.submit(_run, parsed, seed, children) for seed in seeds]
        try:
            scores = dict(zip(seeds, (f.result() for f in futures), strict=True))
        except BaseException as error:  # after a signal or the failure of a run, stop the others
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                children.stop()
            raise
    print(table(scores, extra=("visible_iou", "oca", "minutes")))
    for seed, score in scores.items():
        if "training" in score:
            print(f"seed {seed}: {score['training']}")


def _run(args: Args, seed: int, children: ChildProcesses) -> dict[str, Any]:
    """Train and evaluate one seed in child processes."""
    run = args.out / f"{cli.label(args.preset)}-seed-{seed}"
    done = run / DONE
    if not done.exists():
        here = Path(__file__).parent
        train = [str(here / "svi_train.py"), args.preset, "--seed", str(seed), "--run", str(run)]
        children.call([*train, *args.options.split(), *child_runs.resume_options(run)], run)
        children.call([str(here / "evaluate.py"), str(run), "--n", str(args.n)], run)
        minutes = child_runs.minutes_of(run)
        training = storage.read_json(run / "evaluation.json").get("training")
        short = {"training": training} if isinstance(training, str) else {}
        scores = {**_held_out(run / "evaluation.json"), "minutes": minutes, **short}
        storage.write_json(done, scores, checksum=True)
    scores = storage.read_json(done)
    _check_scores(scores, done)
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
    numbers = {name: v for name, v in scores.items() if name != "training"}
    if not all(v is None or isinstance(v, int | float) for v in numbers.values()):
        raise EconError(f"numbers as scores in {path}", "others", "delete it and start again")


if __name__ == "__main__":
    cli.run(main)
