"""Runs trained by child processes, one after another or several at a time, and resumed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any, TypeVar

from econ_pyro import errors, stopping
from econ_pyro.accel import cpu_cores
from econ_pyro.errors import EconError
from econ_pyro.training import checkpoint

Result = TypeVar("Result")
MAX_SEEDS = 10_000
"""Maximum number of seeds in a range."""
OWN = ("--run", "--resume", "--overwrite", "--until", "--dry-run", "--seed", "--help", "-h")
"""Options of ``svi_train.py`` that are set for each run, or train nothing."""
STOPPED = [sign for s in stopping.SIGNALS for sign in (128 + s, -s)]
"""Exit statuses of a script that was stopped."""


class ChildError(EconError):
    """A child process failed, of itself; not one that was stopped."""


class ChildProcesses:
    """Child processes, which are terminated when this process is stopped; runs can be resumed.

    Args:
        cores: number of cores of each.
    """

    def __init__(self, cores: int) -> None:
        self._cores = max(1, cores)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def call(self, command: Sequence[str], run: Path) -> None:
        """Run a Python script; its output goes to the end of the run's log.

        Args:
            command: path of the script, and its arguments.
            run: folder of the run. The log is beside it.

        Raises:
            ChildError: the script failed.
            EconError: it was stopped.
        """
        environment = {**os.environ, cpu_cores.THREADS_VARIABLE: str(self._cores)}
        environment[stopping.PARENT] = str(os.getpid())
        log = log_of(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as f:
            code = self._wait([sys.executable, *command], f, environment)
        if code:
            last = log.read_text().strip().splitlines()[-1:]
            name = Path(command[0]).name
            got = f"status {code}: {''.join(last)}"
            kind = EconError if code in STOPPED else ChildError
            raise kind(f"{name} to end well", got, f"see {log}")

    def run_all(
        self, tasks: Mapping[str, Callable[[], Result]], jobs: int, tolerant: bool = False
    ) -> dict[str, Result]:
        """Run tasks that call children, several at a time.

        Args:
            tasks: the tasks, by the names that errors are reported with.
            jobs: number of tasks at a time.
            tolerant: whether a task whose child fails is reported, and has no result; else those
                that have not begun by then do not begin.

        Returns:
            The results, in the order of the tasks, without those of children that failed.

        Raises:
            EconError: a task failed.
            Stopped: a signal arrived. Children were told to stop, and have ended.
        """
        results = dict[str, Result]()

        def run(name: str) -> None:
            try:
                results[name] = tasks[name]()
            except ChildError as error:
                if not tolerant:
                    raise
                print(f"warning: {name}: {error}", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(jobs) as pool:
            try:
                ended, _ = wait([pool.submit(run, name) for name in tasks], None, FIRST_EXCEPTION)
                for future in ended:
                    future.result()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, KeyboardInterrupt):
                    raise
                self.stop()
                text = "stopped: the same command goes on with what has been trained"
                raise stopping.Stopped(stopping.signum_of(error), text) from None
        return {name: results[name] for name in tasks if name in results}

    def stop(self) -> None:
        """Terminate all processes."""
        with self._lock:
            self._stopped = True
            for child in self._running.copy():
                child.terminate()

    def _wait(self, command: list[str], log: IO[bytes], environment: dict[str, str]) -> int:
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


def log_of(run: Path) -> Path:
    """The log of a run, beside its folder."""
    return run.with_name(f"{run.name}.log")


def resume_options(run: Path) -> list[str]:
    """Options of ``svi_train.py``: resume with a checkpoint, overwrite a folder without one."""
    if (run / checkpoint.LAST).exists():
        return ["--resume"]
    return ["--overwrite"] if run.exists() else []


def minutes_of(run: Path) -> float | None:
    """Minutes that a run was trained; None if it does not say."""
    seconds = [row.get("seconds") for row in checkpoint.read_metrics(run / checkpoint.METRICS)]
    return seconds[-1] / 60 if seconds and seconds[-1] is not None else None


def words_of(options: Any, where: str, own: Sequence[str] = OWN) -> list[str]:
    """The words of options of ``svi_train.py`` that are given as one text.

    Args:
        options: the text.
        where: it comes from, for error messages.
        own: options that may not be among them.

    Raises:
        EconError: it is no text, a quote is not closed, or it has one of those options.
    """
    if not isinstance(options, str) or not options.isprintable():
        raise EconError(f"text as options in {where}", errors.describe(options))
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise EconError(f"options in {where}", f"{options!r} ({error})") from None
    if taken := [w for w in words if w.split("=")[0].replace("_", "-") in own]:
        raise EconError(
            f"options in {where} that are not set by this command itself", taken[0], "leave it out"
        )
    return words


def parse_seeds(text: str) -> list[int]:
    """Seeds such as ``0-9`` or ``0,3,7``, each once.

    Raises:
        EconError: the text is none of these, or a range is too long or empty.
    """
    seeds = list(dict.fromkeys(_numbers(text)))
    if not seeds:
        raise EconError("seeds as in 0-9 or 0,3,7", repr(text), "the smaller one first")
    return seeds


def _numbers(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not re.fullmatch(r"\d{1,18}(-\d{1,18})?", part.strip(), re.ASCII):
            raise EconError("seeds as in 0-9 or 0,3,7", errors.describe(text))
        if int(last or first) - int(first) >= MAX_SEEDS:
            raise EconError(f"at most {MAX_SEEDS:,} seeds", part)
        yield from range(int(first), int(last or first) + 1)
