"""Training of a run: steps, validation, schedule, checkpoints (appendix C.3)."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from econ_pyro.accel.overlap import HostCopy
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import FORMAT, Config, PlateauSchedule
from econ_pyro.core.ensemble import thawed
from econ_pyro.data.base import Source
from econ_pyro.errors import EconError
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.training import checkpoint, format1, resume_checks
from econ_pyro.training.batches import Batches
from econ_pyro.training.callbacks import winner_shares
from econ_pyro.training.learner import Learner
from econ_pyro.training.run_files import Row, RunFiles
from econ_pyro.training.schedules import last_gamma, lowest_rate

STOPPED = "stopped"


class Diverged(EconError):
    """The loss is not finite."""


class Trainer:
    """State of a training run; everything that a bit-exact resumption needs is in it.

    Args:
        config: of the run.
        model: the scene model.
        train: source of training images.
        valid: source of validation images.
        run: folder of the run.
        device: where the networks are.
        group: processes that share each batch.

    Raises:
        EconError: there are no images, or true regions are asked for, and the images have none.
    """

    def __init__(
        self,
        config: Config,
        model: SceneModel,
        train: Source,
        valid: Source,
        run: Path,
        device: torch.device,
        group: ProcessGroup | None = None,
    ) -> None:
        self.group = group or ProcessGroup()
        self.config, self.valid = config, valid
        self.run, self.device = run, device
        self.learner = Learner(config, model, device, self.group)
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.horizon = config.train.steps
        self._paced: tuple[int, float] | None = None  # step and seconds at the last validation
        self.rows: list[Row] = []
        self.sums: list[Tensor] = []  # terms of each step since the last validation
        # a GPU is given its next step before the loss of this one is known
        self._unknown = int(device.type != "cpu")
        self._batches = Batches(config, train, valid, device, self.group)
        self._files = RunFiles(run)

    def initialise(self) -> str:
        """Let the model set its weights by training images; of new runs, before the first step.

        Experts that stay fixed in training start like the others.

        Returns:
            What it did, in one line; empty if nothing.

        Raises:
            EconError: it could not.
        """
        began, model = time.perf_counter(), self.learner.model
        with thawed(model.expert_groups()):
            done = model.initialise(self._batches.some)
        if done:
            for value in model.state_dict().values():
                self.group.broadcast(value)
            self.seconds, _ = self._agreed(time.perf_counter() - began)
        return done

    def state(self) -> dict[str, Any]:
        """Everything that resumption needs, as plain containers and tensors."""
        return {
            "format": FORMAT,
            **self.learner.state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "steps": self.config.train.steps,
            "horizon": self.horizon,
            "sums": self._all_sums(),
        }

    def resume(self) -> None:
        """Go back to the last checkpoint of the run."""
        path = self.run / checkpoint.LAST
        in_use = self.learner.state()["callbacks"]
        state = format1.upgraded_checkpoint(checkpoint.load_checkpoint(path), in_use)
        resume_checks.check_progress(state, path)
        horizon = state.get("horizon")
        same = state.get("steps") in (None, self.config.train.steps)
        self.horizon = horizon if horizon and same else self.config.train.steps
        if state["step"]:  # what a validation of this step says of its weights of the terms
            self.learner.prepare(state["step"] - 1, self.horizon)
        self.learner.load(state, path)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.sums = self._own_sums(state.get("sums"))
        # rows written after the checkpoint, before a kill, will be written again
        found = checkpoint.read_metrics(self.run / checkpoint.METRICS)
        self.rows = [row for row in found if row["step"] <= self.step]

    def done(self) -> str:
        """Why training is over; empty if it is not."""
        limits = self.config.train
        schedule = limits.schedule
        if self.step >= limits.steps:
            return f"all {limits.steps} steps done"
        if isinstance(schedule, PlateauSchedule) and self.learner.rate < lowest_rate(
            limits.lr, schedule
        ):
            return f"the rate fell {schedule.decreases} times"
        if limits.minutes is not None and self.seconds >= 60 * limits.minutes:
            return f"{limits.minutes:g} minutes are up"
        return ""

    def fit(
        self,
        report: Callable[[int, Row | None], None] = lambda step, row: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """Train until done.

        Args:
            report: called after each step with the step's number, and a row of metrics after
                each validation.
            stop: asked after each step whether to leave it at that: training goes on from there
                as if it had not been stopped. If one process is asked to, all stop.

        Returns:
            Why training ended; ``STOPPED`` if it was asked to.

        Raises:
            Diverged: the loss is not finite; the last checkpoint from before is kept.
            EconError: what a model learns before its first step took all the time that there is.
            OSError: a file could not be written; the last checkpoint is kept.
        """
        try:
            return self._fit(report, stop)
        finally:
            self._files.wait()

    def _fit(self, report: Callable[[int, Row | None], None], stop: Callable[[], bool]) -> str:
        losses = deque[HostCopy]()
        state = self.state()
        self._lead(lambda: self._files.begin(self.rows, state))
        if not self.step and (over := self.done()):
            raise EconError(
                "time for a step of training",
                f"none: {over}, of which the model's start took {self.seconds / 60:.1f}",
                "it is kept: go on with the same command, --resume and more --minutes",
            )
        while not (reason := self.done()):
            before, began = self.seconds, time.perf_counter()
            batch = self._batches.training(self.step)
            last = self.learner.step(*batch, self.step, self.horizon)
            self.step += 1
            losses.append(HostCopy(last.loss))
            self._check(losses, self._unknown)
            self.sums.append(torch.stack([t.sum(1).mean() for t in last.terms]))
            self.seconds, stopping = self._agreed(before + time.perf_counter() - began, stop())
            row = None
            if self.step % self.config.train.validate_every == 0 or self.done():
                self._check(losses, 0)
                row = self._validate()
                self._keep_best(row)
                self.seconds, _ = self._agreed(before + time.perf_counter() - began)
                self._look_ahead()
                self._save(row)
            elif stopping:
                self._check(losses, 0)
                self._save()
            report(self.step, row)
            if stopping:
                return STOPPED
        if self.sums:  # stopped since the last validation, and not to go on
            row = self._validate()
            self._keep_best(row)
            self._save(row)
            report(self.step, row)
        return reason

    def _look_ahead(self) -> None:
        """Where the time limit will end training before ``train.steps``, schedules follow it.

        By the pace since the last validation; the first interval of a process, in which kernels
        are compiled, does not count.
        """
        limits, paced = self.config.train, self._paced
        self._paced = self.step, self.seconds
        if limits.minutes is None or paced is None or self.seconds <= paced[1]:
            return
        pace = (self.step - paced[0]) / (self.seconds - paced[1])
        left = max(0.0, 60 * limits.minutes - self.seconds)
        self.horizon = min(limits.steps, max(self.step, int(self.step + pace * left)))

    def _check(self, losses: deque[HostCopy], unknown: int) -> None:
        """Take out and look at the losses of the last steps, but for so many of the very last."""
        while len(losses) > unknown:
            loss = losses.popleft().get().item()
            if self.group.any(not math.isfinite(loss), self.device):
                raise Diverged(
                    "a finite loss",
                    f"{loss} at step {self.step - len(losses)}",
                    f"lower --train.lr or set --train.clip 100; {checkpoint.LAST} in {self.run} "
                    "holds the state before",
                )

    def _agreed(self, seconds: float, stopping: bool = False) -> tuple[float, bool]:
        """The first process's clock, and whether any is to stop: all stop at the same step."""
        if self.group.size == 1:
            return seconds, stopping
        told = torch.tensor([seconds * self.group.first, stopping], dtype=torch.float64)
        clock, stops = self.group.sum(told.to(self.device)).tolist()
        return clock, stops > 0

    def _validate(self) -> Row:
        terms = self.group.sum(torch.stack(self.sums).mean(0)) / self.group.size
        self.sums.clear()
        x, evidence, count = self._batches.validation()
        d = self.learner.engine.decompose(x, evidence)[:count]
        # the schedule must not mistake a change of weights for a change of the loss
        objective = self.config.objective
        losses = d.terms.loss(objective.beta, last_gamma(self.config)).sum(1).double()
        valid = self.group.sum(losses.sum()).item() / len(self.valid)
        usage = winner_shares(d, self.learner.model.num_experts, self.group)
        rate = self.learner.rate
        self.learner.validated(d, valid)
        elbo = self.learner.elbo
        loss = terms[0] + elbo.beta * terms[1] + elbo.gamma * terms[2]
        return {
            "step": self.step,
            "loss": loss.item(),
            "valid_loss": valid,
            "x": terms[0].item(),
            "z": terms[1].item(),
            "r": terms[2].item(),
            "lr": rate,
            **self.learner.metrics(),
            "usage": usage.mean(0).tolist(),
            "scenes": self.step * self.config.train.batch,
        }

    def _keep_best(self, row: Row) -> None:
        if row["valid_loss"] < self.best:
            self.best = row["valid_loss"]
            state = self.state()
            self._lead(lambda: self._files.best(state))

    def _save(self, row: Row | None = None) -> None:
        """A checkpoint, after the row of metrics of a validation."""
        if row is not None:
            row["seconds"] = round(self.seconds, 3)
            self.rows.append(row)
        state = self.state()

        def write() -> None:
            if row is not None:
                self._files.add(row)
            self._files.last(state)

        self._lead(write)

    def _lead(self, write: Callable[[], None]) -> None:
        self.group.lead(write, self.device)

    def _all_sums(self) -> Tensor:
        """The terms since the last validation, of all processes, ``(processes, n, 3)``."""
        if not self.sums:
            return torch.zeros(self.group.size, 0, 3)
        own = torch.stack(self.sums)
        every = own.new_zeros(self.group.size, *own.shape)
        every[self.group.rank] = own
        return self.group.sum(every)

    def _own_sums(self, every: Tensor | None) -> list[Tensor]:
        """Those of this process; of another number of processes, their mean."""
        if every is None:  # a checkpoint of an earlier version, written at a validation
            return []
        own = every[self.group.rank] if len(every) == self.group.size else every.mean(0)
        return list(own.to(self.device).unbind())
