"""Kill training at random moments, resume it each time, and compare with an unbroken run.

    PYTHONPATH=tests python -m helpers.kill_chains --chains 60

prints how many chains ended bit-equal, with nothing left behind. Each process is forked from
one that has imported everything, so that a start takes no seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing.context
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from econ_pyro import cli
from econ_pyro.files import locks
from econ_pyro.training import checkpoint
from econ_pyro.training.learner import Learner
from helpers.trainers import equal, without_clock

OPTIONS = """quick --model.size 16 --scenes.size 16 --model.num-experts 3 --model.num-slots 3
    --scenes.objects 2 --model.expert.latents.dim 3 --model.expert.layers 2
    --model.expert.features 4 --model.expert.attention.channels 4 4
    --model.expert.attention.hidden 8 --train.batch 4 --train.validate-every 3
    --train.valid-scenes 4 --recipe.restart-every 4 --recipe.restart-below 0.9 --steps 20
    --train.minutes None --device cpu --no-amp""".split()
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
"""What a chain sends, one in turn at random."""
STOPS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
# forked from a process that has imported everything and computed nothing, so has no threads
SERVER = multiprocessing.get_context("forkserver")
# Adam imports torch._dynamo, which takes seconds; optuna may be missing
SERVER.set_forkserver_preload(["econ_pyro.scripts.search", "torch._dynamo", "optuna"])
Process = multiprocessing.context.ForkServerProcess


def start(
    args: list[str],
    log: Path,
    environment: dict[str, str] | None = None,
    interrupt: tuple[int, int, int] | None = None,
    script: str = "svi_train",
) -> Process:
    """Run a script in a process of its own.

    Args:
        args: its command line.
        log: what it prints is added to this file.
        environment: further variables.
        interrupt: a signal that the process of that rank sends itself in the step of that age:
            rank, age and number.
        script: name of the script, or of another module with a ``main``.
    """
    given = script, args, log, environment or {}, interrupt
    process = SERVER.Process(target=_run, args=given)
    process.start()
    return process


def _run(
    script: str,
    args: list[str],
    log: Path,
    environment: dict[str, str],
    interrupt: tuple[int, int, int] | None,
) -> None:
    status = 1
    try:
        os.environ.update(environment)
        for number, action in STOPS.items():  # as in a process that a shell starts
            signal.signal(number, action)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False, buffering=1) for n in (1, 2))
        torch.set_num_threads(1)
        if interrupt is not None:
            _interrupt(*interrupt)
        name = script if "." in script else f"econ_pyro.scripts.{script}"
        module = importlib.import_module(name)
        cli.run(lambda: module.main(args))
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _interrupt(rank: int, at: int, number: int) -> None:
    step = Learner.step

    def stepping(learner: Learner, x: Any, evidence: Any, before: int, horizon: int) -> Any:
        if (learner.group.rank, before) == (rank, at):
            os.kill(os.getpid(), number)
        return step(learner, x, evidence, before, horizon)

    Learner.step = stepping  # type: ignore[method-assign]


def finish(process: Process, seconds: float = 120.0) -> int | None:
    """Exit status of a process; that of a signal is negative. One that hangs is killed."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def chain(run: Path, seconds: float, luck: random.Random, log: Path) -> int:
    """Kill a run at random moments until it ends by itself; how often that was."""
    kills = 0
    while True:
        made = (run / checkpoint.CONFIG).exists()
        args = [*OPTIONS, "--run", str(run)]
        process = start([*args, "--resume"] if made else args, log)
        latest = 1.3 if kills else 0.7  # of a whole run: the first is killed for certain
        number = luck.choice(SIGNALS)
        process.join(luck.uniform(0, latest * seconds))
        if process.exitcode is None:
            os.kill(process.pid, number)
        code = finish(process)
        if code == 0:
            return kills
        # a signal may come before there is a handler
        assert code in (-number, 128 + number), f"status {code}: {log.read_text()[-2000:]}"
        kills += 1


def differences(run: Path, whole: Path) -> list[str]:
    """What of a run is not as in the unbroken one, and what is left beside it."""
    found = [f"left: {path}" for path in run.rglob(".*")]
    found += [f"left: {path}" for path in run.parent.glob(f".{run.name}*")]
    names = [sorted(str(p.relative_to(r)) for p in r.rglob("*")) for r in (run, whole)]
    found += sorted(set(names[0]) ^ set(names[1]))
    for name in set(names[0]) & set(names[1]):
        if (run / name).is_file() and not _same(run / name, whole / name):
            found.append(name)
    with locks.hold_lock(run):  # nobody has it
        pass
    return found


def _same(a: Path, b: Path) -> bool:
    if a.suffix == ".pt":
        x, y = (checkpoint.load_checkpoint(path) for path in (a, b))
        return equal(without_clock(x), without_clock(y))
    if a.name == checkpoint.METRICS:
        x, y = ([without_clock(row) for row in checkpoint.read_metrics(p)] for p in (a, b))
        return equal(x, y)
    if a.suffix == ".safetensors":
        return equal(load_file(a), load_file(b))
    if a.name == checkpoint.CONFIG:  # people commit while chains run
        x, y = ({**json.loads(path.read_text()), "commit": ""} for path in (a, b))
        return x == y
    return a.read_bytes() == b.read_bytes()


def chains(n: int, seed: int, folder: Path) -> tuple[int, int]:
    """Run so many chains; how many ended as they should, and kills in all."""
    luck, log = random.Random(seed), folder / "log"
    whole = folder / "whole"
    began = time.monotonic()
    assert finish(start([*OPTIONS, "--run", str(whole)], log)) == 0, log.read_text()[-2000:]
    seconds = time.monotonic() - began
    good = kills = 0
    for i in range(n):
        run = folder / f"chain-{i}"
        killed = chain(run, seconds, luck, log)
        found = differences(run, whole)
        good, kills = good + (not found), kills + killed
        if found:
            print(f"chain {i}: {', '.join(found)}", flush=True)
        shutil.rmtree(run)
    return good, kills


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        good, kills = chains(parsed.chains, parsed.seed, Path(folder))
    print(f"{good} of {parsed.chains} chains bit-equal, nothing left behind; {kills} kills")
    sys.exit(good != parsed.chains)


if __name__ == "__main__":
    main()
