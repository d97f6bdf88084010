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

from econ_pyro import checkpoint, files, resumable, rows
from econ_pyro.ahead import Ahead
from econ_pyro.config import Config
from econ_pyro.data import Source, batch_indices
from econ_pyro.decomposition import Decomposition
from econ_pyro.errors import EconError
from econ_pyro.later import Later
from econ_pyro.learner import Learner
from econ_pyro.saver import Saver
from econ_pyro.schedules import age, gamma_at
from econ_pyro.world import World

Row = dict[str, Any]
Begin = Callable[[int], tuple[nn.Module, nn.Module]]
Batches = Callable[[int], tuple[Tensor, Tensor | None]]


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
        EconError: true regions are asked for, and the images have none.
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
        self.config, self.train, self.valid = config, train, valid
        self.run, self.device = run, device
        self.learner = Learner(config, model, guide, device, self.world)
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.rival: dict[str, Any] | None = None
        self.rows: list[Row] = []
        busy_elsewhere = device.type != "cpu"  # else two would share the processor
        self._training: Batches = (
            Ahead(self._training_batch) if busy_elsewhere else self._training_batch
        )
        # a GPU is given its next step before the loss of this one is known
        self._unknown = int(busy_elsewhere)
        self._saver = Saver()
        if config.true_regions:  # fail before anything is written
            self._batch(train, torch.zeros(1, dtype=torch.long))

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
        }

    def resume(self) -> None:
        """Go back to the last checkpoint of the run."""
        path = self.run / checkpoint.LAST
        state = checkpoint.load_checkpoint(path)
        resumable.check_progress(state, path)
        if state["rival"] is not None:
            self.learner.check(state["rival"], path)
        self.learner.load(state, path)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.rival = state["rival"]
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
        lowest = limits.lr * 10 ** (-0.5 * (limits.decreases - 0.5))
        if limits.schedule == "plateau" and self.learner.rate < lowest:
            return f"the rate fell {limits.decreases} times"
        if limits.minutes is not None and self.seconds >= 60 * limits.minutes:
            return f"{limits.minutes:g} minutes are up"
        return ""

    def fit(self, report: Callable[[int, Row | None], None] = lambda step, row: None) -> str:
        """Train until done.

        Args:
            report: called after each step with the step's number, and a row of metrics after
                each validation.

        Returns:
            Why training ended.

        Raises:
            EconError: the loss is not finite; the last checkpoint from before is kept.
        """
        try:
            return self._fit(report)
        finally:
            self._saver.wait()

    def _fit(self, report: Callable[[int, Row | None], None]) -> str:
        sums: list[Tensor] = []
        losses = deque[Later]()
        if self.world.first:
            self._rewrite_metrics()
        while not (reason := self.done()):
            before, began = self.seconds, time.perf_counter()
            x, regions = self._to_device(*self._training(self.step))
            last = self.learner.step(x, regions, self.age)
            self.step += 1
            losses.append(Later(last.loss))
            self._check(losses, self._unknown)
            sums.append(torch.stack([t.sum(1).mean() for t in last.terms]))
            self.seconds = self._agreed(before + time.perf_counter() - began)
            row = None
            if self.step % self.config.train.validate_every == 0 or self.done():
                self._check(losses, 0)
                row = self._validate(torch.stack(sums).mean(0))
                sums.clear()
                self._keep_best(row)
            self._judge(row)
            if row is not None:
                self.seconds = self._agreed(before + time.perf_counter() - began)
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

    def _agreed(self, seconds: float) -> float:
        """The first process's clock, so that all stop at the same step."""
        if self.world.size == 1:
            return seconds
        clock = torch.tensor(seconds * self.world.first, dtype=torch.float64, device=self.device)
        return self.world.sum(clock).item()

    def _training_batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        limits = self.config.train
        whole = batch_indices(len(self.train), limits.batch, step, self.config.seed)
        return self._batch(self.train, self.world.share(whole))

    def _to_device(self, x: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        def move(part: Tensor) -> Tensor:
            if self.device.type == "cuda":  # what is pinned is copied without waiting for the GPU
                part = part.pin_memory()
            return part.to(self.device, non_blocking=True)

        return move(x), None if regions is None else move(regions)

    def _batch(self, source: Source, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.config.true_regions:
            return source.images(indices), None
        scenes = source.scenes(indices)
        if scenes is None:
            raise EconError(
                "scenes with true regions",
                "images without ground truth",
                "leave out --true-regions, or train on generated scenes",
            )
        return scenes.image, scenes.layers(self.config.model.steps)

    def _explain_valid(self) -> tuple[Decomposition, float]:
        """This process's share of the validation scenes, and the loss on all of them."""
        valid = self._batch(self.valid, self.world.share(torch.arange(len(self.valid))))
        x, regions = self._to_device(*valid)
        d = self.learner.svi.explain(x, regions)
        # the schedule must not mistake a change of weights for a change of the loss
        gamma = gamma_at(self.config, self.config.objective.gamma_steps)
        losses = d.terms.loss(self.config.objective.beta, gamma).sum(1).double()
        return d, self.world.sum(losses.sum()).item() / len(self.valid)

    def _validate(self, terms: Tensor) -> Row:
        d, valid = self._explain_valid()
        terms = self.world.sum(terms) / self.world.size
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
            if self.world.first:
                self._saver.save(self.run / checkpoint.BEST, self.state())

    def _save(self, row: Row) -> None:
        row["seconds"] = round(self.seconds, 3)
        self.rows.append(row)
        if self.world.first:
            with open(self.run / checkpoint.METRICS, "a") as f:
                f.write(rows.to_line(row))
            self._saver.save(self.run / checkpoint.LAST, self.state())
        self.world.wait()

    def _rewrite_metrics(self) -> None:
        files.write_text(self.run / checkpoint.METRICS, rows.to_text(self.rows))
