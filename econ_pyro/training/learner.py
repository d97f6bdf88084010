"""A scene model with all that goes with its training: optimiser, engine, callbacks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from econ_pyro.accel.amp import has_bfloat16
from econ_pyro.accel.compile import check_compiler
from econ_pyro.accel.execution import Execution
from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import Config, PlateauSchedule
from econ_pyro.core.ensemble import freeze
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import BatchedELBO
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.infer.svi import Step
from econ_pyro.training import checkpoint, resume_checks
from econ_pyro.training.callbacks import Callback, CosineRate, GammaWarmUp, PlateauRate


class Learner:
    """Training steps of a scene model.

    The model's engine takes them: of ECON, :class:`~econ_pyro.infer.svi.CompetitiveSVI`.

    Args:
        config: of the run.
        model: the scene model.
        device: where its networks are.
        group: processes that share each batch.
    """

    def __init__(
        self, config: Config, model: SceneModel, device: torch.device, group: ProcessGroup
    ) -> None:
        self.config, self.model, self.group, self.device = config, model, group, device
        freeze(model.expert_groups(), range(config.train.frozen))
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._shapes = [p.shape for p in parameters]
        self.optim = torch.optim.Adam(parameters, lr=config.train.lr, fused=True)
        if clip := config.train.clip:
            self.optim.register_step_pre_hook(partial(_clip, parameters, clip))
        if config.compile:
            check_compiler(device)
        execution = Execution(config.amp and has_bfloat16(device), config.compile, group)
        objective = config.objective
        self.elbo = BatchedELBO(objective.beta, objective.gamma, objective.smallest_region)
        self.engine = model.engine(self.optim, self.elbo, execution)
        schedule = config.train.schedule
        rate: Callback = (
            PlateauRate(schedule, self.optim)
            if isinstance(schedule, PlateauSchedule)
            else CosineRate(config, self.optim)
        )
        self.callbacks = [GammaWarmUp(config, self.elbo), rate, *model.callbacks(self)]

    @property
    def rate(self) -> float:
        """The optimiser's learning rate."""
        return self.optim.param_groups[0]["lr"]

    def step(self, x: Tensor, evidence: Tensor | None, step: int, horizon: int = 0) -> Step:
        """A training step.

        Args:
            x: this process's images, ``(B, 3, H, W)``.
            evidence: true regions, if they are given, ``(B, T, 1, H, W)``.
            step: training steps before this one.
            horizon: at which training is expected to end; ``train.steps`` if not given.

        Returns:
            What it computed, as ``CompetitiveSVI.update``.
        """
        horizon = horizon or self.config.train.steps
        self.prepare(step, horizon)
        result = self.engine.update(x, evidence)
        for callback in self.callbacks:
            callback.after_step(step + 1, result, horizon)
        return result

    def prepare(self, step: int, horizon: int) -> None:
        """Make everything that schedules set what it is in that step."""
        for callback in self.callbacks:
            callback.before_step(step, horizon)

    def validated(self, d: Decomposition, loss: float) -> None:
        """Tell the callbacks of a validation: this process's share of the scenes, and the loss."""
        for callback in self.callbacks:
            callback.after_validation(d, loss)

    def metrics(self) -> dict[str, float]:
        """What the callbacks add to a row of metrics."""
        return {name: v for callback in self.callbacks for name, v in callback.metrics().items()}

    def state(self) -> dict[str, Any]:
        """All of it, as plain containers and tensors."""
        return {
            "weights": self.model.state_dict(),
            "optim": self.optim.state_dict(),
            "callbacks": {c.name: c.state() for c in self.callbacks if c.name},
        }

    def check(self, state: dict[str, Any], source: Path) -> None:
        """Check a state before anything takes it.

        Raises:
            EconError: it is none of this configuration's; the message names ``source``.
        """
        checkpoint.check_weights(state.get("weights"), self.model.state_dict(), source)
        resume_checks.check_optimiser(state.get("optim"), self._shapes, source)
        own = {c.name: c.state() for c in self.callbacks if c.name}
        resume_checks.check_callbacks(state.get("callbacks"), own, source)

    def load(self, state: dict[str, Any], source: Path) -> None:
        """Go back to a state.

        Raises:
            EconError: as :meth:`check`.
        """
        self.check(state, source)
        self.model.load_state_dict(state["weights"])
        self.optim.load_state_dict(state["optim"])
        for callback in self.callbacks:
            if callback.name:
                callback.load(state["callbacks"][callback.name])


def _clip(parameters: list[nn.Parameter], largest: float, *_: Any) -> None:
    nn.utils.clip_grad_norm_(parameters, largest)
