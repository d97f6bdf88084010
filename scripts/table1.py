"""Train several systems and measure them side by side: ``python scripts/table1.py --minutes 20``.

Each system, kind of scenes and seed is a run of its own, trained by ``svi_train.py`` in a process
of its own. Runs of one budget stand in one folder of ``--out``. Existing runs are resumed, or only
measured if they are complete; what was measured before is kept. The tables, in ``table1.md`` and
``table1.json``, have the runs of all budgets in ``--out``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from econ_pyro import cli, errors
from econ_pyro.accel import cpu_cores
from econ_pyro.config import Config
from econ_pyro.errors import EconError
from econ_pyro.evaluation.table1 import PARTS, Measurements, Numbers, Part, RunFolder
from econ_pyro.files import storage
from econ_pyro.io.pretrained import load_model
from econ_pyro.model_config import EconConfig
from econ_pyro.scripts import seeds
from econ_pyro.scripts.seeds import SeedRun
from econ_pyro.training import checkpoint, child_runs
from econ_pyro.training.child_runs import ChildProcesses
from econ_pyro.training.run_config import read_config

Data = Literal["unique-colours", "random-colours"]
SYSTEMS = (
    "quick", "monet", "genesis", "genesis-v2", "slot-attention", "iodine", "mrbm", "mrbm-16",
)  # fmt: skip
DATA: tuple[Data, ...] = ("unique-colours", "random-colours")
TRAINED = "table1-trained.json"
"""File in the folder of a run, written when it is complete."""
ENDLESS = 10_000_000
"""Steps of runs that minutes or a plateau end."""


@dataclass(frozen=True)
class Args:
    """Runs, and what is measured of them."""

    systems: tuple[str, ...] = SYSTEMS
    """Presets, or files such as the config.json of a run."""
    data: tuple[Data, ...] = DATA
    """Kinds of scenes."""
    seeds: str = "0-2"
    """Seeds, such as 0-9 or 0,3,7."""
    minutes: float | None = None
    """Minutes of training at most; default: 20, or 120 with --plateau."""
    steps: int | None = None
    """Steps of training, in place of minutes."""
    plateau: bool = False
    """Train until the validation loss no longer falls: systems without experts with the plateau
    schedule, ECON to the end of its own schedule."""
    batch: int = 16
    """Scenes per training step."""
    rows: tuple[Part, ...] = PARTS
    """What to measure: decompose (and reconstruct), coherent (scenes), recombine (controllably)
    or (efficient) inference."""
    n: int = 1000
    """Number of held-out scenes that are decomposed."""
    samples: int = 2000
    """Number of samples of each prior that are judged."""
    requests: int = 500
    """Number of requests, and of swaps, that are judged."""
    clustered: int = 1250
    """Number of training images whose slots are clustered, to control systems without classes."""
    rounds: int = 5
    """Timed turns of inference."""
    strips: bool = False
    """Also draw eight held-out scenes as one run of each system decomposes them."""
    read: bool = False
    """Do not train: measure the runs that are complete, and those that are not as they are."""
    out: Path = Path("runs/table1")
    """Folder of the runs and the tables."""
    jobs: int = 1
    """Number of runs trained at a time, each on one core."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    for name in ("jobs", "n", "batch", "samples", "requests", "clustered", "rounds"):
        errors.check_positive(f"--{name}", getattr(parsed, name))
    budget, wanted_seeds = Budget.of(parsed), child_runs.parse_seeds(parsed.seeds)
    systems, kinds = cli.labelled(parsed.systems), dict.fromkeys(parsed.data)
    configs = {label: cli.preset_config(preset) for label, preset in systems.items()}
    wanted = [Run(s, d, seed) for d in kinds for s in systems for seed in wanted_seeds]
    failed = [] if parsed.read else _train(parsed, budget, wanted, systems, configs)
    runs = _runs(parsed, wanted)
    if not runs:
        raise EconError(f"runs of {', '.join(systems)} in {parsed.out}", "none")
    numbers = Numbers(parsed.n, parsed.samples, parsed.requests, parsed.clustered, parsed.rounds)
    cpu_cores.use_cores(1)
    measurements = Measurements(parsed.out, parsed.rows, numbers, load_model)
    text, groups = measurements.tables(runs, len(wanted_seeds))
    table = {"numbers": vars(numbers), "batch": parsed.batch, "groups": groups}
    storage.write_json(parsed.out / "table1.json", table)
    storage.write_text(parsed.out / "table1.md", text)
    print(text)
    for path in measurements.draw_strips(runs) if parsed.strips else ():
        print(f"figure: {path}")
    if failed:
        got = f"{len(failed)} failures: {', '.join(failed)}"
        raise EconError(f"{len(wanted)} runs to end well", got)


@dataclass(frozen=True)
class Budget:
    """When training ends."""

    name: str
    """Of the folder."""
    options: tuple[str, ...]
    """Of svi_train.py."""
    endless: tuple[str, ...] = ()
    """Further ones of systems whose own number of steps means nothing."""

    @staticmethod
    def of(args: Args) -> Budget:
        """The budget of the command line.

        Raises:
            EconError: it has two.
        """
        if args.steps is not None:
            errors.check_positive("--steps", args.steps)
            if args.minutes is not None or args.plateau:
                raise EconError("one budget", "--steps and another", "leave one out")
            return Budget(f"steps-{args.steps}", ("--steps", str(args.steps)))
        minutes = (120.0 if args.plateau else 20.0) if args.minutes is None else args.minutes
        if not minutes > 0:
            raise EconError("--minutes above 0", f"{minutes:g}")
        options, endless = ("--minutes", f"{minutes:g}"), ("--steps", str(ENDLESS))
        if not args.plateau:
            return Budget(f"minutes-{minutes:g}", options, endless)
        schedule = ("--train.schedule.kind", "plateau")
        return Budget(f"plateau-{minutes:g}", options, (*endless, *schedule))


@dataclass(frozen=True)
class Run:
    """A run, whatever its budget."""

    system: str
    data: str
    seed: int

    @property
    def name(self) -> str:
        """Of the folder."""
        return f"{self.system}-{self.data}-seed-{self.seed}"


def _train(
    args: Args,
    budget: Budget,
    runs: Sequence[Run],
    systems: dict[str, str],
    configs: dict[str, Config],
) -> list[str]:
    """Train what is not complete; the names of the runs that failed."""
    wanted = dict[str, SeedRun]()
    for run in runs:
        preset = systems[run.system]
        options = ["--scenes.kind", run.data, *budget.options, "--train.batch", str(args.batch)]
        if not isinstance(configs[run.system].model, EconConfig):
            options += budget.endless
        folder = args.out / budget.name / run.name
        wanted[run.name] = SeedRun(preset, run.seed, folder, tuple(options))
    seeds.check_same([*wanted.values()])
    children = ChildProcesses(1)

    def train(run: SeedRun) -> None:
        if not (run.folder / TRAINED).exists():
            seeds.train(run, children)
            storage.write_json(run.folder / TRAINED, {})
            minutes = child_runs.minutes_of(run.folder)
            text = f"trained {run.folder.name}: {minutes or 0:.1f} minutes"
            print(text, file=sys.stderr, flush=True)

    tasks = {name: partial(train, run) for name, run in wanted.items()}
    trained = children.run_all(tasks, args.jobs, tolerant=True)
    return [name for name in wanted if name not in trained]


def _runs(args: Args, wanted: Sequence[Run]) -> list[RunFolder]:
    """The wanted runs of all budgets that have weights."""
    folders = args.out.iterdir() if args.out.is_dir() else ()
    budgets, found = sorted(path.name for path in folders if path.is_dir()), []
    for run in wanted:
        for budget in budgets:
            path = args.out / budget / run.name
            if path.is_dir() and (path / checkpoint.BEST).exists():
                config = read_config(path).config
                scenes = replace(config.scenes, size=config.model.size)
                slots = getattr(config.model, "num_slots", 1)
                found.append(RunFolder(run.system, budget, run.seed, path, scenes, slots))
    return found


if __name__ == "__main__":
    cli.run(main)
