"""Search for the best configuration at random: ``python scripts/search.py plan STUDY``.

``plan`` draws all configurations and writes them into a study. ``work`` trains them, in any number
of processes on any number of machines, and stops the bad ones early. ``report`` shows the results.
docs/guides/search.md has examples.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyro
import torch
import tyro

from econ_pyro import cli, errors, stopping
from econ_pyro.config import Config
from econ_pyro.errors import EconError, command
from econ_pyro.evaluation import search_report
from econ_pyro.evaluation.evaluate import evaluate
from econ_pyro.files import storage
from econ_pyro.io.pretrained import load_model
from econ_pyro.scripts import seeds, svi_train
from econ_pyro.training import checkpoint
from econ_pyro.training.run_config import read_config
from econ_pyro.training.search_space import Space
from econ_pyro.training.space_file import read_space, with_options, with_rungs
from econ_pyro.training.study import Job, Study, Trial
from econ_pyro.training.trainer import Diverged

MAX_N = 100_000
"""Maximum number of configurations."""
POLL = 5.0
"""Seconds between two looks for work while other workers are busy."""


@dataclass(frozen=True)
class Plan:
    """Draw configurations and write them into a study; those already there are kept."""

    study: tyro.conf.Positional[Path]
    """Folder of the study."""
    space: str
    """What to search: a .json file, or one of the paper's (appendix C.4), paper-unique-colours and
    paper-random-colours."""
    n: int = 512
    """Number of configurations."""
    seed: int = 0
    """Seed of the configurations. A larger n adds to those of a smaller one."""
    rungs: tuple[int, ...] = ()
    """Training steps after which configurations are compared; default: those of the space."""
    options: str = ""
    """Further options of svi_train.py, as one string: --options="--train.batch 16 --no-amp"."""
    storage: str | None = None
    """Database, such as postgresql+psycopg://user@host/name; default: a file in the folder."""


@dataclass(frozen=True)
class Work:
    """Train configurations until none is left."""

    study: tyro.conf.Positional[Path]
    """Folder of the study."""
    storage: str | None = None
    """Database; default: as planned in this folder."""
    max_jobs: int | None = None
    """Maximum number of trainings; default: until none is left."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Report:
    """Show the results, and write tables, figures and the best configuration as a preset."""

    study: tyro.conf.Positional[Path]
    """Folder of the study."""
    storage: str | None = None
    """Database; default: as planned in this folder."""
    top: int = 10
    """Number of configurations to show, and to train with --final."""
    final: bool = False
    """Train the best configurations with several seeds, and evaluate them on held-out scenes."""
    seeds: str = "0-2"
    """Seeds of --final, such as 0-2 or 0,3,7."""
    steps: int | None = None
    """Training steps of --final; default: the last rung."""
    n: int = 1000
    """Number of held-out scenes of --final."""
    jobs: int = 1
    """Number of trainings at a time of --final, among which the CPU cores are divided."""


Args = (
    Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Work, tyro.conf.subcommand("work")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed: Plan | Work | Report = tyro.cli(Args, args=args, description=__doc__)
    if isinstance(parsed, Plan):
        plan(parsed)
    elif isinstance(parsed, Work):
        work(parsed)
    else:
        report(parsed)


def plan(parsed: Plan) -> None:
    """Write the configurations."""
    errors.check_range("--n", parsed.n, 1, MAX_N)
    space = read_space(parsed.space)
    if parsed.options:
        space = with_options(space, parsed.options)
    if parsed.rungs:
        space = with_rungs(space, parsed.rungs, space.factor)
    _check_space(space, parsed.study)
    with contextlib.closing(Study(parsed.study, parsed.storage, create=True)) as study:
        new = study.plan(space, parsed.seed, parsed.n)
        print(f"{parsed.study}: {new} new configurations of {len(study.trials())}")
    print(f"to train them: {command('search')} work {parsed.study}")


def _check_space(space: Space, folder: Path) -> None:
    """Check the options of a space, at the ends of its ranges and with each of its choices."""
    for values in space.corners():
        every = _config(space, values, folder).train.validate_every
        if any(rung % every for rung in space.rungs):
            raise EconError(
                f"rungs that are multiples of train.validate-every, {every}",
                " ".join(map(str, space.rungs)),
                "change --rungs, or --train.validate-every in the options",
            )


def _config(space: Space, values: dict[str, Any], folder: Path) -> Config:
    return cli.of_preset(svi_train.TrainArgs, _arguments(space, values, folder), None)


def _arguments(space: Space, values: dict[str, Any], run: Path) -> list[str]:
    """Command line of svi_train.py for a configuration."""
    steps = ["--train.steps", str(space.rungs[-1]), "--train.minutes", "None"]
    return [space.preset, *space.arguments(values), *steps, "--run", str(run)]


def work(parsed: Work) -> None:
    """Train configurations until none is left."""
    if parsed.max_jobs is not None:
        errors.check_positive("--max-jobs", parsed.max_jobs)
    cli.pick_device(parsed.device)
    with contextlib.closing(Study(parsed.study, parsed.storage)) as study:
        _work(study, parsed)


def _work(study: Study, parsed: Work) -> None:
    done = 0
    while parsed.max_jobs is None or done < parsed.max_jobs:
        with study.claim() as job:
            if job is not None:
                _work_on(job, study, parsed)
                done += 1
                continue
        if not study.unfinished():
            print(f"nothing is left to train: {command('search')} report {parsed.study}")
            return
        time.sleep(POLL)


def _work_on(job: Job, study: Study, parsed: Work) -> None:
    """Train a configuration up to its rung, evaluate it and report."""
    index, run = job.trial.index, parsed.study / f"{job.trial.index:04d}"
    try:
        space, params = study.space, job.trial.params
        arguments = _arguments(space, params, run)
        if (run / checkpoint.LAST).exists():
            arguments.append("--resume")
        elif error := _mistake(space, params, run):  # of this configuration alone
            _fail(job, error)
            return
        elif run.exists():
            arguments.append("--overwrite")
        arguments += ["--until", str(job.rung), "--device", parsed.device]
        pyro.clear_param_store()
        with _log(run):
            svi_train.main(arguments)
            elbo, scores = _evaluate(run, parsed.device)
    except Diverged as error:
        _fail(job, error)
    except stopping.Stopped as stop:
        text = f"stopped; configuration {index:04d} waits for the next {command('search')} work"
        raise stopping.Stopped(stop.signum, text) from None
    else:
        ours = job.report(elbo, scores)
        said = f"step {job.rung}  ELBO {elbo:.1f}  {scores['minutes']:.2f} minutes"
        print(f"{index:04d}  {said if ours else 'was taken over by another worker'}", flush=True)


def _mistake(space: Space, values: dict[str, Any], run: Path) -> EconError | None:
    """What is wrong with a configuration, such as an image size that its networks cannot have."""
    try:
        _config(space, values, run)
    except EconError as error:
        return error
    return None


def _fail(job: Job, error: EconError) -> None:
    job.fail(str(error))
    print(f"{job.trial.index:04d}  failed: {error}", flush=True)


@contextlib.contextmanager
def _log(run: Path) -> Any:
    """Print to the log of a run, beside its folder."""
    with open(run.with_suffix(".log"), "a", buffering=1) as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield


def _evaluate(run: Path, device: str) -> tuple[float, dict[str, float]]:
    """ELBO and scores of a run on its validation scenes."""
    rows = checkpoint.read_metrics(run / checkpoint.METRICS)
    if rows[-1]["valid_loss"] is None:
        raise Diverged("a finite loss", "another one in the last validation")
    recorded = read_config(run)
    model = load_model(run, cli.pick_device(device))
    valid = svi_train.open_recorded(recorded).valid
    with torch.no_grad():
        summary = evaluate(model, valid, gt_masks=recorded.config.gt_masks).summary()
    return search_report.scores(summary, rows[-1])


def report(parsed: Report) -> None:
    """Show and write the results."""
    errors.check_positive("--top", parsed.top)
    with contextlib.closing(Study(parsed.study, parsed.storage)) as study:
        trials, space = study.trials(), study.space
    print(search_report.overview(trials, space))
    best = search_report.ranked(trials)[: parsed.top]
    if not best:
        return
    print("\n" + search_report.table(best, space))
    if text := search_report.importance_table(trials, space):
        print("\n" + text)
    folder = parsed.study / "report"
    for path in search_report.write(folder, trials, space):
        print(f"written: {path}")
    preset = _write_preset(parsed.study, best[0], "best")
    if preset is not None:
        print(f"\nthe best, {best[0].index:04d}: {command('train')} {preset}")
    if parsed.final:
        _final(parsed, best)


def _write_preset(study: Path, trial: Trial, name: str) -> Path | None:
    """A preset file with the configuration of a trial; None if it trained on another machine."""
    source = study / f"{trial.index:04d}" / checkpoint.CONFIG
    if not source.exists():
        print(f"no {source} on this machine: no preset file of it")
        return None
    stored = storage.read_json(source)
    path = study / f"{name}.json"
    storage.write_json(path, {**stored, "preset": name}, checksum=True)
    return path


def _final(parsed: Report, best: Sequence[Trial]) -> None:
    """Train the best configurations with several seeds; existing runs are only read."""
    out = parsed.study / "final"
    for trial in best:
        preset = _write_preset(parsed.study, trial, f"final/{trial.index:04d}")
        if preset is None:
            continue
        print(f"\nconfiguration {trial.index:04d}, held-out scenes\n")
        given = [str(preset), "--seeds", parsed.seeds, "--out", str(out), "--n", str(parsed.n)]
        given += ["--jobs", str(parsed.jobs)]
        if parsed.steps is not None:
            given.append(f"--options=--steps {parsed.steps}")
        seeds.main(given)


if __name__ == "__main__":
    cli.run(main)
