"""Train a preset with several seeds and count successes: ``python scripts/seeds.py quick``.

Each seed is a run of its own, trained and evaluated on held-out scenes; one that is there already
is resumed, or only read if it is done. The table says how many of them are successes
(``econ_pyro/success.py``), with median and range.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from econ_pyro import checkpoint, cli, errors, files, naming, presets
from econ_pyro.errors import EconError
from econ_pyro.success import table

DONE = "held-out.json"
MOST = 10_000
"""Seeds in a range."""


@dataclass(frozen=True)
class Args:
    """Which runs."""

    preset: tyro.conf.Positional[str] = "quick"
    """Preset to train."""
    seeds: str = "0-9"
    """Seeds, as in 0-9 or 0,3,7."""
    out: Path = Path("runs")
    """Folder of the runs, each PRESET-seed-SEED."""
    jobs: int = 1
    """Runs at a time; the processor's threads are shared between them."""
    n: int = 1000
    """Held-out scenes for evaluation."""
    options: str = ""
    """Further options of svi_train.py, as one string: --options="--train.lr 1e-3 --no-amp"."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    errors.check_choice("a preset", parsed.preset, presets.PRESETS)
    errors.check_positive("--jobs", parsed.jobs)
    seeds = list(dict.fromkeys(_numbers(parsed.seeds)))
    if not seeds:
        raise EconError("seeds as in 0-9 or 0,3,7", repr(parsed.seeds), "the smaller one first")
    with ThreadPoolExecutor(parsed.jobs) as pool:
        scores = dict(zip(seeds, pool.map(lambda seed: _run(parsed, seed), seeds), strict=True))
    print(table(scores, extra=("visible_iou", "oca", "minutes")))


def _run(args: Args, seed: int) -> dict[str, Any]:
    """Train and evaluate one seed, in processes of its own."""
    run = args.out / f"{args.preset}-seed-{seed}"
    done = run / DONE
    if not done.exists():
        here = Path(__file__).parent
        train = [str(here / "svi_train.py"), args.preset, "--seed", str(seed), "--run", str(run)]
        _call(args, [*train, *args.options.split(), *_resume(run)], run)
        _call(args, [str(here / "evaluate.py"), str(run), "--n", str(args.n)], run)
        seconds = [row.get("seconds") for row in checkpoint.read_metrics(run / checkpoint.METRICS)]
        minutes = seconds[-1] / 60 if seconds and seconds[-1] is not None else None
        scores = {**_held_out(run / "evaluation.json"), "minutes": minutes}
        files.write_json(done, scores, sealed=True)
    scores = files.read_json(done)
    _check_scores(scores, done)
    return scores


def _held_out(path: Path) -> dict[str, Any]:
    """Scores that evaluate.py wrote.

    Raises:
        EconError: the file has none.
    """
    report = files.read_json(path).get("held-out")
    scores = report.get("metrics") if isinstance(report, dict) else None
    if not isinstance(scores, dict):
        raise EconError(f"scores of held-out scenes in {path}", "none", "run evaluate.py again")
    _check_scores(scores, path)
    return scores


def _check_scores(scores: dict[str, Any], path: Path) -> None:
    right = (v is None or isinstance(v, int | float) for v in scores.values())
    if not all(right):
        raise EconError(f"numbers as scores in {path}", "others", "delete it and start again")


def _resume(run: Path) -> list[str]:
    """A run with a checkpoint goes on; what stopped before its first one begins again."""
    if (run / checkpoint.LAST).exists():
        return ["--resume"]
    return ["--overwrite"] if run.exists() else []


def _call(args: Args, command: list[str], run: Path) -> None:
    threads = max(1, _cores() // args.jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = run.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as f:
        code = subprocess.call([sys.executable, *command], stdout=f, stderr=f, env=environment)
    if code:
        last = log.read_text().strip().splitlines()[-1:]
        raise EconError(
            f"{Path(command[0]).name} to end well", f"status {code}: {''.join(last)}", f"see {log}"
        )


def _cores() -> int:
    """Processor cores that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _numbers(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not re.fullmatch(r"\d{1,18}(-\d{1,18})?", part.strip(), re.ASCII):
            raise EconError("seeds as in 0-9 or 0,3,7", repr(naming.shown(text)))
        if int(last or first) - int(first) >= MOST:
            raise EconError(f"at most {MOST:,} seeds", part)
        yield from range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    cli.run(main)
