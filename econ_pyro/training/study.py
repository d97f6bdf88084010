"""A random search over many configurations, by any number of workers, in an Optuna study.

The configurations are written up front (:meth:`Study.plan`). A worker holds one at a time
(:meth:`Study.claim`), trains it up to a rung of
:mod:`~econ_pyro.training.successive_halving`, and reports the ELBO there. A worker that ends
without a report gives its configuration back. Of one that was killed, others take it over: at once
if they run on the same machine, else when it has given no sign of life for :data:`GRACE` seconds.
As training resumes from checkpoints, nothing but the steps since the last one is repeated.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError, command
from econ_pyro.files import locks
from econ_pyro.training import study_storage, successive_halving
from econ_pyro.training.search_space import Space, Value
from econ_pyro.training.space_file import parse
from econ_pyro.training.successive_halving import Standing

GRACE = 300.0
"""Seconds without a sign of life after which a worker on another machine is given up."""
BEAT = 30.0
"""Seconds between signs of life."""
MAX_ATTEMPTS = 10
"""Workers that may die with a configuration between two rungs before it is given up."""


@dataclass(frozen=True)
class Trial:
    """A configuration and what is known of it."""

    index: int
    number: int
    """Of the trial in the Optuna study."""
    params: dict[str, Value]
    state: str
    """waiting, running, complete or failed."""
    values: dict[int, float]
    """Validation ELBO at each rung reached, with beta = gamma = 1, in nats per scene."""
    attrs: dict[str, Any] = field(default_factory=dict, repr=False)
    started: float = 0.0
    """When a worker last took it, in seconds since 1970."""

    @property
    def reached(self) -> int:
        """The last rung reached; 0 before the first."""
        return max(self.values, default=0)

    @property
    def error(self) -> str:
        """Why it failed; empty if it did not."""
        return self.attrs.get("error", "")

    def scores(self, rung: int | None = None) -> dict[str, float | None]:
        """Scores of the validation scenes at a rung, the last one reached if not given."""
        return self.attrs.get(f"scores-{self.reached if rung is None else rung}", {})

    def standing(self) -> Standing:
        """What successive halving looks at."""
        state = self.state if self.state in ("waiting", "running") else "ended"
        values = dict(self.values)
        target = self.attrs.get("target", 0)
        if self.state == "failed":
            values[target] = -math.inf
        return Standing(self.index, values, state, target)


class Job:
    """A configuration that this worker holds, and the rung up to which it is to be trained."""

    def __init__(self, study: Study, trial: Trial, rung: int, ident: int) -> None:
        self._study, self._ident = study, ident
        self.trial, self.rung = trial, rung
        self.ended = False
        """Whether there was a report."""

    def report(self, elbo: float, scores: Mapping[str, float | None]) -> bool:
        """Report the rung; False if another worker has taken the configuration over.

        Args:
            elbo: of the validation scenes, in nats per scene.
            scores: further scores.
        """
        if not math.isfinite(elbo):
            return self.fail(f"the ELBO is {elbo}")
        if not self._mine():
            return False
        self._attr(f"scores-{self.rung}", dict(scores))
        self._attr("attempts", 0)
        self._study.call("set_trial_intermediate_value", self._ident, self.rung, elbo)
        self._study.rung_done(self._ident, self.rung, elbo, self._mine)
        self.ended = True
        return True

    def fail(self, reason: str) -> bool:
        """Report that the configuration cannot be trained; False as :meth:`report`."""
        if not self._mine():
            return False
        self._attr("error", reason)
        self._study.set_state(self._ident, "failed")
        self.ended = True
        return True

    def give_back(self) -> None:
        """Let others take it: this worker was stopped, which says nothing about it."""
        if self._mine():
            self._attr("attempts", self.trial.attrs.get("attempts", 0))
            self._study.set_state(self._ident, "waiting", still=self._mine)

    def beat(self) -> None:
        """Give a sign of life."""
        self._attr("beat", time.time())

    def _mine(self) -> bool:
        held = self._study.call("get_trial", self._ident).user_attrs.get("worker") or {}
        if held.get("id") == self._study.worker["id"]:
            return True
        self.ended = True
        return False

    def _attr(self, name: str, value: Any) -> None:
        self._study.call("set_trial_user_attr", self._ident, name, value)


class Study:
    """A search and its storage.

    Args:
        folder: of the study; each configuration trains in a folder of its own in it.
        url: of a database; default: what :meth:`plan` recorded in the folder, else a journal
            file in the folder.
        create: whether to create the study if it does not exist.

    Raises:
        EconError: there is no such study, its storage cannot be used, or Optuna is missing.
    """

    def __init__(self, folder: Path, url: str | None = None, create: bool = False) -> None:
        self.folder = folder
        self.worker = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self.storage, self._id = study_storage.open_study(folder, url, create)
        self._plan = self.call("get_study_user_attrs", self._id).get("plan")
        if self._plan is None and not create:
            raise EconError(
                f"a study with a plan in {folder}", "none",
                f"{command('search')} plan {folder} --space ... comes first",
            )  # fmt: skip

    def close(self) -> None:
        """Close the connections to a database."""
        study_storage.close(self.storage)

    @property
    def space(self) -> Space:
        """What it searches."""
        assert self._plan is not None
        return parse(self._plan["space"], f"the plan of {self.folder}")

    def plan(self, space: Space, seed: int, n: int) -> int:
        """Write the first n configurations; those that are there already are left alone.

        Args:
            space: what to search.
            seed: of the configurations.
            n: how many there are to be.

        Returns:
            How many were new.

        Raises:
            EconError: the study has another space or seed.
        """
        plan = {"space": space.source, "seed": seed}
        with locks.hold_lock(self.folder / "plan", wait=60.0):
            self._plan = self.call("get_study_user_attrs", self._id).get("plan")
            if self._plan is None:
                self.call("set_study_user_attr", self._id, "plan", plan)
                self._plan = plan
            for name in ("space", "seed"):
                if self._plan[name] != plan[name]:
                    raise EconError(
                        f"the {name} with which {self.folder} was planned", "another",
                        "name another folder for another search",
                    )  # fmt: skip
            known = {trial.index for trial in self.trials()}
            new = [index for index in range(n) if index not in known]
            ranges = study_storage.distributions(space)
            for index in new:
                drawn = space.draw(seed, index)
                template = study_storage.waiting(drawn, ranges, index)
                self.call("create_new_trial", self._id, template)
        return len(new)

    def trials(self) -> list[Trial]:
        """All configurations, by index."""
        found: dict[int, Trial] = {}
        for frozen in self.call("get_all_trials", self._id, deepcopy=False):
            index = frozen.user_attrs.get("index")
            if index is None:  # not ours
                continue
            started = frozen.datetime_start
            trial = Trial(
                index,
                frozen.number,
                dict(frozen.params),
                study_storage.name_of(frozen.state),
                dict(frozen.intermediate_values),
                dict(frozen.user_attrs),
                started.timestamp() if started else 0.0,
            )
            found.setdefault(index, trial)  # planned twice at once on two machines: the first
        return [found[index] for index in sorted(found)]

    @contextlib.contextmanager
    def claim(self) -> Iterator[Job | None]:
        """Hold the most urgent configuration, with signs of life, until the block ends.

        Without a report in the block, the configuration is given back.

        Yields:
            None if there is nothing to do now; :meth:`unfinished` tells whether to ask again.
        """
        with contextlib.ExitStack() as stack:
            job = self._take(stack)
            if job is None:
                yield None
                return
            stop = threading.Event()
            thread = threading.Thread(target=_beat, args=(job, stop), daemon=True)
            thread.start()
            try:
                yield job
            finally:
                stop.set()
                thread.join()
                if not job.ended:
                    job.give_back()

    def unfinished(self) -> bool:
        """Whether workers hold configurations, whose reports may promote some, or could."""
        trials = self.trials()
        return any(t.state == "running" for t in trials) or bool(self._next(trials))

    def _next(self, trials: Sequence[Trial]) -> list[tuple[int, int]]:
        standings, space = [t.standing() for t in trials], self.space
        return successive_halving.next_steps(standings, space.rungs, space.factor)

    def _take(self, stack: contextlib.ExitStack) -> Job | None:
        trials = self.trials()
        if dead := [t for t in trials if t.state == "running" and self._is_dead(t)]:
            for trial in dead:
                self._free(trial)
            trials = self.trials()
        by_index = {t.index: t for t in trials}
        for index, rung in self._next(trials):
            with contextlib.ExitStack() as held:
                try:  # where workers share a file system, this alone decides
                    held.enter_context(self._lock(index))
                except EconError:
                    continue
                if job := self._hold(by_index[index], rung):
                    stack.push(held.pop_all())
                    return job
        return None

    def _lock(self, index: int) -> contextlib.AbstractContextManager[None]:
        return locks.hold_lock(self.folder / f"{index:04d}.claim")

    def _free(self, trial: Trial) -> None:
        """Take a configuration from a worker that has died."""
        with contextlib.suppress(EconError), self._lock(trial.index):
            ident, now = self._now(trial)
            if now is None:
                return
            last = self.space.rungs[-1]

            def still() -> bool:
                return self._now(trial)[1] is not None

            if last in now.intermediate_values:  # it died after its report
                self.set_state(ident, "complete", now.intermediate_values[last], still)
            else:
                self.set_state(ident, "waiting", still=still)

    def _now(self, trial: Trial) -> tuple[int, Any]:
        """Identifier and present record of a trial; None if another worker has changed it."""
        ident = self.call("get_trial_id_from_study_id_trial_number", self._id, trial.number)
        now = self.call("get_trial", ident)
        same = now.user_attrs.get("worker") == trial.attrs.get("worker")
        return ident, now if same and study_storage.name_of(now.state) == trial.state else None

    def _hold(self, trial: Trial, rung: int) -> Job | None:
        """Make a configuration this worker's, unless another is faster."""
        ident, now = self._now(trial)
        if now is None or not self.set_state(ident, "running"):
            return None
        values = self.call("get_trial", ident).intermediate_values
        if rung in values:  # the worker that had it before has trained it on since we looked
            self.rung_done(ident, rung, values[rung])
            return None
        job = Job(self, trial, rung, ident)
        attempts = now.user_attrs.get("attempts", 0) + 1
        attrs = {"worker": self.worker, "beat": time.time(), "target": rung}
        for name, value in {**attrs, "attempts": attempts}.items():
            self.call("set_trial_user_attr", ident, name, value)
        if attempts > MAX_ATTEMPTS:
            job.fail(f"{MAX_ATTEMPTS} workers died with it")
            return None
        return job

    def _is_dead(self, trial: Trial) -> bool:
        """Whether the worker that holds a configuration has died."""
        worker, beat = trial.attrs.get("worker") or {}, trial.attrs.get("beat", 0.0)
        if beat >= trial.started and worker.get("host") == self.worker["host"]:
            return not _is_alive(worker.get("pid", 0))
        return time.time() - max(beat, trial.started) > GRACE

    def rung_done(
        self, ident: int, rung: int, elbo: float, still: Callable[[], bool] = lambda: True
    ) -> None:
        """Let a trial wait for its next rung, or end it after the last one.

        Args:
            ident: of the trial.
            rung: that was trained.
            elbo: of that rung.
            still: as of :meth:`set_state`.
        """
        last = rung == self.space.rungs[-1]
        self.set_state(ident, "complete" if last else "waiting", elbo, still)

    def set_state(
        self,
        ident: int,
        state: str,
        value: float | None = None,
        still: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Set the state of a trial; False if another worker runs it already.

        Args:
            ident: of the trial.
            state: its name.
            value: of a complete trial.
            still: whether to do it, asked before each attempt: a first one whose answer was lost
                may have let another worker take the trial.
        """
        values = None if state != "complete" else [value]
        named = study_storage.state_of(state)
        finished = study_storage.import_optuna().exceptions.UpdateFinishedTrialError

        def once() -> bool:
            return still() and self.storage.set_trial_state_values(ident, named, values)

        try:
            return study_storage.patiently(once)
        except finished:  # by the first of two attempts, whose answer was lost
            return state in ("complete", "failed")

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of the storage; wait for a database that is away."""
        return study_storage.patiently(lambda: getattr(self.storage, method)(*args, **options))


def _beat(job: Job, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(Exception):  # what fails here, fails in the worker as well
            job.beat()


def _is_alive(pid: int) -> bool:
    if os.name != "posix" or pid <= 0:  # elsewhere, signal 0 ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
