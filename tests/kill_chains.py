"""Kill training at random moments, resume it each time, and compare with an unbroken run.

``python tests/kill_chains.py --chains 60`` says how many chains ended bit-equal, with nothing left
behind. Processes are forked from one that has imported everything: a start takes no seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from econ_pyro import checkpoint, cli, locks
from econ_pyro.scripts import svi_train

OPTIONS = """quick --model.size 16 --scenes.size 16 --model.experts 3 --model.steps 3
    --scenes.objects 2 --model.expert.latent 3 --model.expert.layers 2 --model.expert.features 4
    --model.expert.channels 4 4 --model.expert.hidden 8 --train.batch 4 --train.validate-every 3
    --train.valid-scenes 4 --train.restart-every 4 --train.restart-below 0.9 --steps 20
    --train.minutes None --device cpu --no-amp""".split()
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
"""What a chain sends, one in turn at random."""


def start(args: list[str], log: Path, environment: dict[str, str] | None = None) -> int:
    """Run svi_train.py in a fork of this process; its number."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recent Pythons warn of threads, of which it uses none
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.environ.update(environment or {})
        for stop in (signal.SIGINT, signal.SIGTERM):  # as in a process of its own
            signal.signal(stop, signal.default_int_handler if stop == 2 else signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False, buffering=1) for n in (1, 2))
        torch.set_num_threads(1)
        cli.run(lambda: svi_train.main(args))
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def finish(pid: int, seconds: float = 120.0) -> int:
    """Exit status of a process; that of a signal is negative. One that hangs is killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def chain(run: Path, seconds: float, luck: random.Random, log: Path) -> int:
    """Kill a run at random moments until it ends by itself; how often that was."""
    kills = 0
    while True:
        made = (run / checkpoint.CONFIG).exists()
        args = [*OPTIONS, "--run", str(run)]
        pid = start([*args, "--resume"] if made else args, log)
        latest = 1.3 if kills else 0.7  # of a whole run: the first is killed for certain
        until = time.monotonic() + luck.uniform(0, latest * seconds)
        number = luck.choice(SIGNALS)
        while time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.002)
        else:
            os.kill(pid, number)
            status = os.waitpid(pid, 0)[1]
        code = os.waitstatus_to_exitcode(status)
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
    with locks.held(run):  # nobody has it
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


def without_clock(values: dict) -> dict:
    """Without what the machine's speed decides."""
    return {key: value for key, value in values.items() if key != "seconds"}


def equal(a: object, b: object) -> bool:
    """Whether containers and the tensors in them are bit-equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        good, kills = chains(parsed.chains, parsed.seed, Path(folder))
    print(f"{good} of {parsed.chains} chains bit-equal, nothing left behind; {kills} kills")
    sys.exit(good != parsed.chains)


if __name__ == "__main__":
    main()
