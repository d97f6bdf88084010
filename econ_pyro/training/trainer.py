"""Training of a run: steps, validation, schedule, checkpoints (appendix C.3)."""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from econ_pyro.accel.later import Later
from econ_pyro.config import Config
from econ_pyro.data.base import Source
from econ_pyro.errors import EconError
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.training import checkpoint, resume_checks
from econ_pyro.training.batches import Batches
from econ_pyro.training.distributed import World
from econ_pyro.training.learner import Learner
from econ_pyro.training.run_files import Record, Row
from econ_pyro.training.schedules import age, gamma_at, lowest_rate

Begin = Callable[[int], tuple[nn.Module, nn.Module]]
STOPPED = "stopped"


class Trainer:
    """State of a training run; everything that a bit-exact resumption needs is in it.

    Args:
        config: of the run.
        model: p, with ``decoders`` and a ``class_probs`` buffer.
        guide: q, with ``attentions`` and ``encoders``.
        train: source of training images.
        valid: source of validation images.
        run: folder of the run.
        device: where the networks are.
        world: the processes that share each batch.
        begin: makes a new model and guide for a further beginning (``train.tries``), by number.

    Raises:
        EconError: there are no images, or true regions are asked for, and the images have none.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        guide: nn.Module,
        train: Source,
        valid: Source,
        run: Path,
        device: torch.device,
        world: World | None = None,
        begin: Begin | None = None,
    ) -> None:
        self.world, self.begin = world or World(), begin
        self.config, self.valid = config, valid
        self.run, self.device = run, device
        self.learner = Learner(config, model, guide, device, self.world)
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.rival: dict[str, Any] | None = None
        self.rows: list[Row] = []
        self.sums: list[Tensor] = []  # terms of each step since the last validation
        # a GPU is given its next step before the loss of this one is known
        self._unknown = int(device.type != "cpu")
        self._batches = Batches(config, train, valid, device, self.world)
        self._record = Record(run)

    def state(self) -> dict[str, Any]:
        """Everything that resumption needs, as plain containers and tensors."""
        return {
            **self.learner.state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "rival": self.rival,
            "steps": self.config.train.steps,
            "sums": self._all_sums(),
        }

    def resume(self) -> None:
        """Go back to the last checkpoint of the run."""
        path = self.run / checkpoint.LAST
        state = checkpoint.load_checkpoint(path)
        resume_checks.check_progress(state, path)
        if state["rival"] is not None:
            self.learner.check(state["rival"], path)
        if state["step"]:  # what a validation of this step says of its weights of the terms
            self.learner.apply_schedules(age(self.config, state["step"] - 1))
        self.learner.load(state, path)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.rival = state["rival"]
        self.sums = self._own_sums(state.get("sums"))
        # rows written after the checkpoint, before a kill, will be written again
        found = checkpoint.read_metrics(self.run / checkpoint.METRICS)
        self.rows = [row for row in found if row["step"] <= self.step]

    @property
    def age(self) -> int:
        """Step of the beginning that is being trained: what schedules count."""
        return age(self.config, self.step)

    def _judge(self, row: Row | None) -> None:
        """At the end of a beginning: make the next one, or go on with the best."""
        train = self.config.train
        if (
            train.tries == 1
            or self.step % train.try_steps
            or not (0 < self.step <= train.tries * train.try_steps)
        ):
            return
        valid = self._explain_valid()[1] if row is None else row["valid_loss"]
        if self.rival is None or valid < self.rival["valid_loss"]:
            self.rival = {**copy.deepcopy(self.learner.state()), "valid_loss": valid}
        number = self.step // train.try_steps
        if number == train.tries:
            self.learner.load(self.rival, self.run)
            self.rival = None
            return
        assert self.begin is not None, "several beginnings need a way to make them"
        self.learner.begin_anew(*self.begin(number))

    def done(self) -> str:
        """Why training is over; empty if it is not."""
        limits = self.config.train
        if self.step >= limits.steps:
            return f"all {limits.steps} steps done"
        if limits.schedule == "plateau" and self.learner.rate < lowest_rate(self.config):
            return f"the rate fell {limits.decreases} times"
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
            EconError: the loss is not finite; the last checkpoint from before is kept.
            OSError: something could not be written; so is it then.
        """
        try:
            return self._fit(report, stop)
        finally:
            self._record.wait()

    def _fit(self, report: Callable[[int, Row | None], None], stop: Callable[[], bool]) -> str:
        losses = deque[Later]()
        state = self.state()
        self._lead(lambda: self._record.begin(self.rows, state))
        while not (reason := self.done()):
            before, began = self.seconds, time.perf_counter()
            last = self.learner.step(*self._batches.training(self.step), self.age)
            self.step += 1
            losses.append(Later(last.loss))
            self._check(losses, self._unknown)
            self.sums.append(torch.stack([t.sum(1).mean() for t in last.terms]))
            self.seconds, stopping = self._agreed(before + time.perf_counter() - began, stop())
            row = None
            if self.step % self.config.train.validate_every == 0 or self.done():
                self._check(losses, 0)
                row = self._validate()
                self._keep_best(row)
            self._judge(row)
            if row is not None:
                self.seconds, _ = self._agreed(before + time.perf_counter() - began)
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

    def _check(self, losses: deque[Later], unknown: int) -> None:
        """Take out and look at the losses of the last steps, but for so many of the very last."""
        while len(losses) > unknown:
            loss = losses.popleft().get().item()
            if self.world.any(not math.isfinite(loss), self.device):
                raise EconError(
                    "a finite loss",
                    f"{loss} at step {self.step - len(losses)}",
                    f"lower --train.lr or set --train.clip 100; {checkpoint.LAST} in {self.run} "
                    "holds the state before",
                )

    def _agreed(self, seconds: float, stopping: bool = False) -> tuple[float, bool]:
        """The first process's clock, and whether any is to stop: all stop at the same step."""
        if self.world.size == 1:
            return seconds, stopping
        told = torch.tensor([seconds * self.world.first, stopping], dtype=torch.float64)
        clock, stops = self.world.sum(told.to(self.device)).tolist()
        return clock, stops > 0

    def _explain_valid(self) -> tuple[Decomposition, float]:
        """This process's share of the validation scenes, and the loss on all of them."""
        x, regions, count = self._batches.validation()
        d = self.learner.svi.explain(x, regions)[:count]
        # the schedule must not mistake a change of weights for a change of the loss
        gamma = gamma_at(self.config, self.config.objective.gamma_steps)
        losses = d.terms.loss(self.config.objective.beta, gamma).sum(1).double()
        return d, self.world.sum(losses.sum()).item() / len(self.valid)

    def _validate(self) -> Row:
        terms = self.world.sum(torch.stack(self.sums).mean(0)) / self.world.size
        self.sums.clear()
        d, valid = self._explain_valid()
        wins = torch.nn.functional.one_hot(d.k, self.config.model.experts).float()  # (B, T, K)
        wins = self.world.sum(wins.sum(0)) / len(self.valid)  # (T, K)
        probs = (wins + 1e-4).flip(0)  # back to front
        learner, svi = self.learner, self.learner.svi
        learner.model.class_probs.copy_(probs / probs.sum(1, keepdim=True))  # type: ignore[operator]
        if self.config.objective.units:
            learner.fit_units(d)
        rate = learner.rate
        learner.evaluated(valid)
        loss = terms[0] + svi.elbo.beta * terms[1] + svi.elbo.gamma * terms[2]
        return {
            "step": self.step,
            "loss": loss.item(),
            "valid_loss": valid,
            "x": terms[0].item(),
            "z": terms[1].item(),
            "r": terms[2].item(),
            "lr": rate,
            "beta": svi.elbo.beta,
            "gamma": svi.elbo.gamma,
            "temperature": svi.rules.temperature,
            "usage": wins.mean(0).tolist(),
            "scenes": self.step * self.config.train.batch,
        }

    def _keep_best(self, row: Row) -> None:
        if row["valid_loss"] < self.best:
            self.best = row["valid_loss"]
            state = self.state()
            self._lead(lambda: self._record.best(state))

    def _save(self, row: Row | None = None) -> None:
        """A checkpoint, after the row of metrics of a validation."""
        if row is not None:
            row["seconds"] = round(self.seconds, 3)
            self.rows.append(row)
        state = self.state()

        def write() -> None:
            if row is not None:
                self._record.add(row)
            self._record.last(state)

        self._lead(write)

    def _lead(self, write: Callable[[], None]) -> None:
        self.world.lead(write, self.device)

    def _all_sums(self) -> Tensor:
        """The terms since the last validation, of all processes, ``(processes, n, 3)``."""
        if not self.sums:
            return torch.zeros(self.world.size, 0, 3)
        own = torch.stack(self.sums)
        every = own.new_zeros(self.world.size, *own.shape)
        every[self.world.rank] = own
        return self.world.sum(every)

    def _own_sums(self, every: Tensor | None) -> list[Tensor]:
        """Those of this process; of another number of processes, their mean."""
        if every is None:  # a checkpoint of an earlier version, written at a validation
            return []
        own = every[self.world.rank] if len(every) == self.world.size else every.mean(0)
        return list(own.to(self.device).unbind())
