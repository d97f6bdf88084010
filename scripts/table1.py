"""Train several systems and measure them side by side: ``python scripts/table1.py --minutes 20``.

Each system, kind of scenes and seed is a run of its own, trained by ``svi_train.py`` in a process
of its own. Runs of one budget stand in one folder of ``--out``. Existing runs are resumed, or only
measured if they are complete; what was measured before is kept. The tables, in ``table1.md`` and
``table1.json``, have the runs of all budgets in ``--out``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from econ_pyro import cli, errors, presets
from econ_pyro.config import Config
from econ_pyro.errors import EconError
from econ_pyro.evaluation import decompose_reconstruct, system_table
from econ_pyro.evaluation.evaluate import evaluate, write_names
from econ_pyro.evaluation.system_table import Row, Scores
from econ_pyro.files import storage
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.io.pretrained import load_model
from econ_pyro.model_config import EconConfig
from econ_pyro.scene_config import SceneConfig
from econ_pyro.training import checkpoint, child_runs
from econ_pyro.training.child_runs import ChildProcesses
from econ_pyro.training.run_config import read_config, read_config_file

Part = Literal["decompose"]
PARTS: tuple[Part, ...] = ("decompose",)
Data = Literal["unique-colours", "random-colours"]
SYSTEMS = ("quick", "monet", "genesis", "genesis-v2", "slot-attention", "iodine", "mrbm")
DATA: tuple[Data, ...] = ("unique-colours", "random-colours")
TRAINED, MEASURED = "table1-trained.json", "table1-measured.json"
"""Files in the folder of a run: written when it is complete; what was measured."""
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
    """What to measure: decompose (and reconstruct)."""
    n: int = 1000
    """Number of held-out scenes."""
    read: bool = False
    """Do not train: measure the runs that are complete, and those that are not as they are."""
    out: Path = Path("runs/table1")
    """Folder of the runs and the tables."""
    jobs: int = 1
    """Number of runs trained at a time, each on one core."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    for name in ("jobs", "n", "batch"):
        errors.check_positive(f"--{name}", getattr(parsed, name))
    budget, seeds = Budget.of(parsed), child_runs.parse_seeds(parsed.seeds)
    systems = {cli.label(name): name for name in parsed.systems}
    for preset in systems.values():
        cli.check_preset(preset)
    wanted = [Run(s, d, seed) for d in parsed.data for s in systems for seed in seeds]
    failed = {} if parsed.read else _train(parsed, budget, wanted, systems)
    tables = _measure(parsed, wanted)
    text = "\n\n".join(tables.pop("text"))
    storage.write_json(parsed.out / "table1.json", tables)
    storage.write_text(parsed.out / "table1.md", text + "\n")
    print(text)
    if failed:
        names = ", ".join(failed)
        raise EconError(f"{len(wanted)} runs to end well", f"{len(failed)} failures: {names}")


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
    args: Args, budget: Budget, runs: Sequence[Run], systems: dict[str, str]
) -> dict[str, str]:
    """Train what is not complete; what failed, with the reason, by the name of the run."""
    children, failed = ChildProcesses(1), dict[str, str]()

    def train(run: Run) -> None:
        folder, preset = args.out / budget.name / run.name, systems[run.system]
        options = ["--seed", str(run.seed), "--scenes.kind", run.data, *budget.options]
        options += ["--train.batch", str(args.batch)]
        if not isinstance(_config_of(preset).model, EconConfig):
            options += budget.endless
        if (folder / TRAINED).exists():
            _check_same(folder / TRAINED, options)
            return
        command = [str(Path(__file__).parent / "svi_train.py"), preset, "--run", str(folder)]
        resume = child_runs.resume_options(folder)
        try:
            children.call([*command, *options, *resume], folder)
        except EconError as error:  # the others may do better
            print(f"warning: {run.name}: {error}", file=sys.stderr, flush=True)
            failed[run.name] = str(error)
            return
        storage.write_json(folder / TRAINED, {"preset": preset, "options": options})
        minutes = child_runs.minutes_of(folder)
        print(f"trained {run.name}: {minutes or 0:.1f} minutes", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(train, run) for run in runs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    return failed


def _check_same(path: Path, options: Sequence[str]) -> None:
    before = storage.read_json(path).get("options")
    if before != options:
        got = " ".join(map(str, before)) if isinstance(before, list) else "others"
        hint = "give these, or another --out"
        raise EconError(f"the options of {path.parent}, {got}", " ".join(options), hint)


def _config_of(preset: str) -> Config:
    if cli.is_preset_file(preset):
        return read_config_file(Path(preset)).config
    return presets.PRESETS[preset][1]


def _measure(args: Args, wanted: Sequence[Run]) -> dict[str, Any]:
    """All tables, as values for JSON, and their ``text``."""
    text, groups = [], []
    for scenes, rows in _rows(args, wanted).items():
        title = _title(scenes)
        slots = max(slots for _, _, slots in rows)
        decomposed = [*decompose_reconstruct.references(scenes, args.n, slots)]
        decomposed += [row for row, _, _ in rows]
        text.append(f"### Decompose and reconstruct: {title}")
        text.append(system_table.markdown(decomposed, decompose_reconstruct.COLUMNS, counted=True))
        groups.append({"scenes": title, "decompose": [row.as_json() for row in decomposed]})
    if not text:
        raise EconError(f"runs of {', '.join(args.systems)} in {args.out}", "none")
    return {"n": args.n, "batch": args.batch, "groups": groups, "text": text}


def _rows(
    args: Args, wanted: Sequence[Run]
) -> dict[SceneConfig, list[tuple[Row, list[Path], int]]]:
    """Rows by the distribution of the scenes, each with its runs and its number of layers."""
    found: dict[SceneConfig, list[tuple[Row, list[Path], int]]] = {}
    pairs = dict.fromkeys((run.data, run.system) for run in wanted)
    there = args.out.iterdir() if args.out.is_dir() else ()
    budgets = sorted(path.name for path in there if path.is_dir())
    for data, system in pairs:
        seeds = [run for run in wanted if (run.data, run.system) == (data, system)]
        for budget in budgets:
            folders = {run.seed: args.out / budget / run.name for run in seeds}
            ready = {s: f for s, f in folders.items() if _has_weights(f)}
            if not ready:
                continue
            config = read_config(next(iter(ready.values()))).config
            runs = {seed: _scores(args, folder) for seed, folder in ready.items()}
            row = Row(system, budget, runs, len(seeds))
            scenes = replace(config.scenes, size=config.model.size)
            slots = getattr(config.model, "num_slots", 1)
            found.setdefault(scenes, []).append((row, list(ready.values()), slots))
    return found


def _has_weights(run: Path) -> bool:
    rows = checkpoint.read_metrics(run / checkpoint.METRICS) if run.is_dir() else []
    return bool(rows) and (run / checkpoint.BEST).exists()


def _scores(args: Args, run: Path) -> Scores:
    """What was measured of a run; measured now, if not before or of other weights."""
    last = checkpoint.read_metrics(run / checkpoint.METRICS)[-1]
    path, state = run / MEASURED, {"step": last["step"]}
    before = storage.read_json(path) if path.exists() else {}
    kept = {p: found for p, found in before.items() if found.get("step") == last["step"]}
    model: SceneModel | None = None
    for part in args.rows:
        asked = {**state, "n": args.n}
        if part in kept and kept[part].items() >= asked.items():
            continue
        model = model or load_model(run)
        kept[part] = {**asked, "scores": _decompose(model, run, args.n)}
        storage.write_json(path, kept, checksum=True)
    scores: dict[str, Any] = {"minutes": child_runs.minutes_of(run), "steps": last["step"]}
    for found in kept.values():
        scores |= found["scores"]
    return scores


def _decompose(model: SceneModel, run: Path, n: int) -> Scores:
    scenes = replace(model.config.scenes, size=model.config.model.size)
    report = evaluate(model, decompose_reconstruct.held_out(scenes, n))
    model.names = write_names(run, report, model.names)
    return decompose_reconstruct.scores_of(report)


def _title(scenes: SceneConfig) -> str:
    """The kind of the scenes, and what differs from the usual ones."""
    size = f", {scenes.size} x {scenes.size} pixels"
    places = f", objects at {scenes.places} x {scenes.places} places" if scenes.places else ""
    return f"{scenes.kind}{size}{places}"


if __name__ == "__main__":
    cli.run(main)
