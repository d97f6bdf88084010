"""Train a preset with several seeds and count successes: ``python scripts/seeds.py quick``.

Each seed is a separate run, which is trained and evaluated on held-out scenes. Existing runs are
resumed, or only read if they are complete. The table shows the scores of each run with their
median and range, and the number of successes (:mod:`econ_pyro.evaluation.success_criteria`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import tyro

from econ_pyro import cli, errors
from econ_pyro.accel import cpu_cores
from econ_pyro.errors import EconError
from econ_pyro.evaluation.success_criteria import table
from econ_pyro.files import storage
from econ_pyro.training import checkpoint

DONE = "held-out.json"
MAX_SEEDS = 10_000
"""Maximum number of seeds in a range."""


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
    seeds = list(dict.fromkeys(_numbers(parsed.seeds)))
    if not seeds:
        raise EconError("seeds as in 0-9 or 0,3,7", repr(parsed.seeds), "the smaller one first")
    children = _Children()
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


class _Children:
    """Child processes, which are terminated when this process is stopped; runs can be resumed."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def call(self, command: list[str], log: IO[bytes], environment: dict[str, str]) -> int:
        """Run a command and return its exit status."""
        with self._lock:
            if self._stopped:
                return 128 + signal.SIGTERM
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            self._running.add(child)
        try:
            return child.wait()
        finally:
            self._running.discard(child)

    def stop(self) -> None:
        """Terminate all processes."""
        with self._lock:
            self._stopped = True
            for child in self._running.copy():
                child.terminate()


def _run(args: Args, seed: int, children: _Children) -> dict[str, Any]:
    """Train and evaluate one seed in child processes."""
    run = args.out / f"{cli.label(args.preset)}-seed-{seed}"
    done = run / DONE
    if not done.exists():
        here = Path(__file__).parent
        train = [str(here / "svi_train.py"), args.preset, "--seed", str(seed), "--run", str(run)]
        _call(args, [*train, *args.options.split(), *_resume(run)], run, children)
        _call(args, [str(here / "evaluate.py"), str(run), "--n", str(args.n)], run, children)
        seconds = [row.get("seconds") for row in checkpoint.read_metrics(run / checkpoint.METRICS)]
        minutes = seconds[-1] / 60 if seconds and seconds[-1] is not None else None
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


def _resume(run: Path) -> list[str]:
    """Option for an existing run: resume with a checkpoint, overwrite without one."""
    if (run / checkpoint.LAST).exists():
        return ["--resume"]
    return ["--overwrite"] if run.exists() else []


def _call(args: Args, command: list[str], run: Path, children: _Children) -> None:
    cores = max(1, cpu_cores.available_cores() // args.jobs)
    environment = {**os.environ, cpu_cores.THREADS_VARIABLE: str(cores)}
    log = run.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as f:
        code = children.call([sys.executable, *command], f, environment)
    if code:
        last = log.read_text().strip().splitlines()[-1:]
        raise EconError(
            f"{Path(command[0]).name} to end well", f"status {code}: {''.join(last)}", f"see {log}"
        )


def _numbers(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not re.fullmatch(r"\d{1,18}(-\d{1,18})?", part.strip(), re.ASCII):
            raise EconError("seeds as in 0-9 or 0,3,7", errors.describe(text))
        if int(last or first) - int(first) >= MAX_SEEDS:
            raise EconError(f"at most {MAX_SEEDS:,} seeds", part)
        yield from range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    cli.run(main)
