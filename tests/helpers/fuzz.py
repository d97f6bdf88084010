"""Damaged and hostile input for everything that reads a file, as a command.

    export PYTHONPATH=tests
    python -m helpers.fuzz --cases 1000 --seed 0        # all readers, about two minutes
    python -m helpers.fuzz --only hdf5 npz --cases 500  # some of them
    python -m helpers.fuzz --case hdf5:17 --seed 0      # one case again

A case makes a small valid file, damages it (:mod:`helpers.fuzz_damage`) and reads it. The seed,
the target's name and the case's number determine a case, so that it can be repeated. A case may
end in a result or in an :class:`~econ_pyro.errors.EconError` of one line. Anything else is a
failure: another exception, a crash, more than :data:`SECONDS`, memory that grows by more than
:data:`GROWTH`.

Targets are found in the modules ``fuzz_*.py`` beside this one: each has a dictionary ``TARGETS``
from a name to a :class:`Target`. A new reader needs no more than an entry there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
SECONDS = 60
"""A case that takes longer hangs; far above what one needs, as machines are shared."""
GROWTH = 1 << 30
"""Bytes by which the memory of a process may grow in a case."""
_SLOW = 10.0  # seconds of processor time that no case of such small files may take


@dataclass(frozen=True)
class Target:
    """Something that reads files."""

    make: Callable[[Path], Path]
    """Writes a valid file, or a folder, into the folder given; returns its path."""
    read: Callable[[Path], object]
    """Reads it as a user of the program would, down to the last value."""
    open: Callable[[bytes], bytes] = bytes
    """The part of the file to damage, unpacked; the whole file by default."""
    seal: Callable[[bytes], bytes] = bytes
    """Packs it again, with the checksums that would otherwise give the damage away."""
    sealed: bool = False
    """Whether some cases are to be damaged behind the checksums."""
    mutate: Callable[[bytes, Random], bytes] | None = None
    """Changes what the file's fields hold, for some cases in place of its bytes."""


def targets() -> dict[str, Target]:
    """All targets of the modules beside this one, by name."""
    found: dict[str, Target] = {}
    for path in sorted(HERE.glob("fuzz_*.py")):
        more = getattr(importlib.import_module(f"{HERE.name}.{path.stem}"), "TARGETS", {})
        assert not found.keys() & more.keys(), f"names used twice: {found.keys() & more.keys()}"
        found |= more
    return found


def cases(names: Sequence[str], count: int) -> list[tuple[str, int]]:
    """Target and number of each case: in turn, so that each target has its share."""
    return [(names[i % len(names)], i // len(names)) for i in range(count)]


def run(
    chosen: Sequence[tuple[str, int]],
    seed: int,
    say: Callable[[str], object] = lambda line: None,
) -> list[tuple[str, int, str, str]]:
    """Run cases in a process of their own, and go on after one that ends it.

    Args:
        chosen: target and number of each case.
        seed: what they are drawn from.
        say: called with a line for each failure.

    Returns:
        Target, number, outcome (``read``, ``refused`` or what went wrong) and details of each.
    """
    done: list[tuple[str, int, str, str]] = []
    while len(done) < len(chosen):
        for outcome, details in _worker(chosen[len(done) :], seed):
            done.append((*chosen[len(done)], outcome, details))
            if outcome not in ("read", "refused"):
                name, number = chosen[len(done) - 1]
                say(f"{name}:{number} of seed {seed}: {outcome}: {details}")
    return done


def _worker(chosen: Sequence[tuple[str, int]], seed: int) -> Iterator[tuple[str, str]]:
    """Outcomes until all are done or the process dies, whose case is the last outcome then."""
    command = [sys.executable, "-m", f"{HERE.name}.fuzz", "--worker", "--seed", str(seed)]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path,
    }  # fmt: skip
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(list(chosen)).encode())
        process.stdin.close()
        left, wait = len(chosen), 2 * SECONDS  # the first with all imports
        while left:
            ready, _, _ = select.select([process.stdout], [], [], wait)
            line = process.stdout.readline() if ready else b""
            if not line:
                process.kill()
                status = process.wait()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()[-1:]
                crash = f"exit status {status} {' '.join(said)}"
                yield ("crash", crash) if ready else ("hang", f"more than {wait} s")
                return
            outcome, details = json.loads(line)
            yield outcome, details
            left, wait = left - 1, SECONDS


def one(name: str, number: int, seed: int, target: Target, folder: Path) -> tuple[str, str]:
    """Run a case in this process."""
    import numpy as np

    from econ_pyro.errors import EconError
    from helpers.fuzz_damage import damage

    random = np.random.default_rng([seed, number, *name.encode()])
    path = damage(target, folder, random)
    _reset_peak()
    before, began = _memory("VmRSS"), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings(
                "ignore", category=UserWarning, module="econ_pyro|helpers|__main__"
            )
            warnings.filterwarnings("ignore", "skipped|took the first")
            target.read(path)
        outcome = "read", ""
    except EconError as error:
        text = str(error)
        outcome = ("refused", text) if len(text.splitlines()) == 1 else ("several lines", text)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        outcome = type(error).__name__, f"{' '.join(str(error).split())[:150]} ({where})"
    took, grown = time.process_time() - began, _memory("VmHWM") - before
    if grown > GROWTH:
        return "memory", f"{grown >> 20} MiB more; {outcome}"
    if took > _SLOW:
        return "slow", f"{took:.0f} s; {outcome}"
    return outcome


def _memory(field: str) -> int:
    """Bytes that this process holds, or held at most; 0 where nobody says."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if field in line)


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak is then that of all cases, which only makes the test harder


def _serve(seed: int) -> None:
    all_targets = targets()
    # what a library prints must not mix with what is reported
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name, number in json.loads(sys.stdin.read()):
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            outcome = one(name, number, seed, all_targets[name], Path(folder))
        report.write(json.dumps(outcome) + "\n")


def main() -> int:
    """Entry point; the exit status is 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="TARGET", help="targets; all if not given")
    parser.add_argument("--case", metavar="TARGET:NUMBER", help="one case, in this process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _serve(options.seed)
        return 0
    if options.case:
        name, _, number = options.case.partition(":")
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            print(*one(name, int(number), options.seed, targets()[name], Path(folder)), sep=": ")
        return 0
    names = options.only or list(targets())
    done = run(cases(names, options.cases), options.seed, lambda line: print(line, flush=True))
    outcomes = {name: Counter(o for n, _, o, _ in done if n == name) for name in names}
    for name, counts in outcomes.items():
        print(f"{name:16}", ", ".join(f"{o} {k}" for o, k in counts.most_common()))
    failures = sum(outcome not in ("read", "refused") for _, _, outcome, _ in done)
    print(f"{len(done)} cases, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
