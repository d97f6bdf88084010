"""What training changes from outside, one class each: schedules and the recipe's additions.

A preset is a model, a guide, a competition and callbacks; the paper's presets have only the
schedules of the rate and of gamma, the temperature (constant there) and the class prior.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import AugmentConfig, Config, PlateauSchedule, TeachingConfig
from econ_pyro.core.ensemble import learns
from econ_pyro.core.whitening import moments, refit
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.svi import Step
from econ_pyro.infer.taught_svi import TaughtSVI
from econ_pyro.model_config import JointOptions
from econ_pyro.training.schedules import gamma_at, rate_at, steps_of, temperature_at

FEW = 10  # layers are too few to estimate the mean and spread of latents
NOTHING = 0.02  # of the image: a layer below that is no object won


class Callback:
    """Hooks of training; the state is what a resumed run needs."""

    name = ""

    def before_step(self, step: int, horizon: int) -> None:
        """Before the training step of that number; also before a validation of its weights.

        Args:
            step: training steps so far.
            horizon: step at which training is expected to end.
        """

    def after_step(self, step: int, result: Step, horizon: int) -> None:
        """After a training step.

        Args:
            step: training steps so far, this one included.
            result: what it computed, of this process's share.
            horizon: step at which training is expected to end.
        """

    def after_validation(self, d: Decomposition, loss: float) -> None:
        """After a validation.

        Args:
            d: this process's share of the validation scenes.
            loss: of all of them.
        """

    def metrics(self) -> dict[str, float]:
        """Columns of the metrics."""
        return {}

    def state(self) -> dict[str, Any]:
        """What resuming needs, plain containers and tensors."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""


class GammaWarmUp(Callback):
    """Weight of L_r: linear from gamma to gamma_end."""

    def __init__(self, config: Config, elbo: ClassConditionalELBO) -> None:
        self.config, self.elbo = config, elbo

    def before_step(self, step: int, horizon: int) -> None:
        """Set gamma."""
        self.elbo.gamma = gamma_at(self.config, step, horizon)

    def metrics(self) -> dict[str, float]:
        """Both weights of Eq. 13."""
        return {"beta": self.elbo.beta, "gamma": float(self.elbo.gamma)}


class CosineRate(Callback):
    """The learning rate follows a cosine."""

    def __init__(self, config: Config, optim: Optimizer) -> None:
        self.config, self.optim = config, optim

    def before_step(self, step: int, horizon: int) -> None:
        """Set the rate."""
        for group in self.optim.param_groups:
            group["lr"] = rate_at(self.config, step, horizon)


class PlateauRate(Callback):
    """The learning rate falls when the validation loss stagnates (appendix C.3)."""

    name = "schedule"

    def __init__(self, schedule: PlateauSchedule, optim: Optimizer) -> None:
        # "5 evaluations without improvement": torch counts those after the first
        self.schedule = ReduceLROnPlateau(
            optim,
            factor=10**-0.5,
            patience=schedule.patience - 1,
            threshold=0.0,
            threshold_mode="abs",
        )

    def after_validation(self, d: Decomposition, loss: float) -> None:
        """Look at the loss."""
        self.schedule.step(loss)

    def state(self) -> dict[str, Any]:
        """Of torch's schedule."""
        return self.schedule.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.schedule.load_state_dict(state)


class Temperature(Callback):
    """Annealing of the competition's temperature."""

    def __init__(self, config: Any, competition: Any) -> None:
        self.config, self.competition = config, competition

    def before_step(self, step: int, horizon: int) -> None:
        """Set the temperature."""
        self.competition.temperature = temperature_at(self.config, step, horizon)

    def metrics(self) -> dict[str, float]:
        """The temperature."""
        return {"temperature": self.competition.temperature}


class DepthOrder(Callback):
    """From some step on, layers compete in the order that makes the image likeliest."""

    def __init__(self, config: JointOptions, competition: Any) -> None:
        self.start, self.competition = config.depth_order_from, competition

    def before_step(self, step: int, horizon: int) -> None:
        """Switch it on in time."""
        start = self.start
        self.competition.ordered = start is not None and step >= steps_of(start, horizon)


class Teachers(Callback):
    """When attention is taught, and by whom: seeds first, then the model itself."""

    def __init__(self, config: TeachingConfig, augment: AugmentConfig, engine: TaughtSVI) -> None:
        self.config, self.augment, self.engine = config, augment, engine

    def before_step(self, step: int, horizon: int) -> None:
        """Set the weight, the teacher, the order of the seeds' layers, and the corruptions."""
        teaching, started = self.engine.teaching, step >= steps_of(self.config.start, horizon)
        teaching.weight = self.config.weight if started else 0.0
        teaching.seeded = step < steps_of(self.config.seeds_until, horizon)
        teaching.first.ordered = started
        corrupted = step >= steps_of(self.augment.start, horizon)
        teaching.augment = self.augment if corrupted else AugmentConfig()

    def metrics(self) -> dict[str, float]:
        """What attention had still to learn in the last step."""
        return {"teaching": self.engine.divergence.item()}


class ConstantColour(Callback):
    """A warm-up in which each layer's appearance is one colour."""

    def __init__(self, until: int | str, model: Any) -> None:
        self.until, self.model = until, model

    def before_step(self, step: int, horizon: int) -> None:
        """Switch it off in time."""
        self.model.constant_colour = step < steps_of(self.until, horizon)


class Fixed(Callback):
    """Parameters stay what they are until some step: shapes, and features by which pixels group.

    Regions that are wrong, or parts of hidden objects, are like no shape, and go to whichever is
    the least distinct: it becomes less distinct still. Shapes that wait until encoders find the
    poses of partly hidden objects do not learn from those. Features that were learnt from objects
    alone would learn to leave what has no colour to the background.

    Their optimiser's moments are kept up to date, so that it takes no leaps afterwards.

    Args:
        until: step, or share of the run.
        parameters: which.
    """

    def __init__(self, until: int | str, parameters: Iterable[nn.Parameter]) -> None:
        self.until, self.parameters = until, [*parameters]
        self._kept: list[Tensor] = []

    def before_step(self, step: int, horizon: int) -> None:
        """Keep a copy."""
        fixed = step < steps_of(self.until, horizon)
        self._kept = [p.detach().clone() for p in self.parameters] if fixed else []

    @torch.no_grad()
    def after_step(self, step: int, result: Step, horizon: int) -> None:
        """Go back to it."""
        for p, kept in zip(self.parameters, self._kept, strict=False):
            p.copy_(kept)


class ClassPrior(Callback):
    """P(k_t) becomes the share of validation layers that each expert won."""

    def __init__(self, model: Any, group: ProcessGroup) -> None:
        self.model, self.group = model, group

    def after_validation(self, d: Decomposition, loss: float) -> None:
        """Set the buffer ``class_probs``."""
        shares = winner_shares(d, self.model.num_experts, self.group)
        probs = (shares + 1e-4).flip(0)  # back to front
        self.model.class_probs.copy_(probs / probs.sum(1, keepdim=True))


class LatentWhitening(Callback):
    """After validations, each expert's latents are whitened (:mod:`econ_pyro.core.whitening`)."""

    def __init__(self, model: Any, guide: Any, group: ProcessGroup) -> None:
        self.model, self.guide, self.group = model, guide, group

    @torch.no_grad()
    def after_validation(self, d: Decomposition, loss: float) -> None:
        """Whiten by what each expert won in this process's share of the scenes."""
        pairs = zip(self.model.decoders, self.guide.encoders, strict=True)
        sums = self.group.sum(self._moments(d))
        for row, (decoder, encoder) in zip(sums, pairs, strict=True):
            if row[0] >= FEW and learns(encoder):
                refit(encoder.whitening, decoder.whitening, row)

    def _moments(self, d: Decomposition) -> Tensor:
        """:func:`~econ_pyro.core.whitening.moments` of the layers that hold an object."""
        experts, latent = self.model.num_experts, d.z.shape[-1]
        if not len(d):  # this process has no scene
            return torch.zeros(experts, 1 + 2 * latent, dtype=torch.float64, device=d.z.device)
        k, r = d.k.flatten(), d.region.flatten(0, 1)
        x = d.image.repeat_interleave(d.k.shape[1], 0)
        q_z = self.guide.encode(x, r, k, x.new_zeros(()))
        there = d.area.flatten() >= NOTHING * x[0, 0].numel()
        return moments(k[there], q_z.mean[there], q_z.variance[there], experts)


def winner_shares(d: Decomposition, experts: int, group: ProcessGroup) -> Tensor:
    """Share of the scenes of all processes in which each expert won each layer, ``(T, K)``.

    Args:
        d: this process's share of the scenes.
        experts: number of experts K.
        group: the processes.
    """
    won = group.sum(nn.functional.one_hot(d.k, experts).sum(0).float())
    return won / won.sum(1, keepdim=True)  # one expert wins a layer of a scene


def wins(result: Step, experts: int) -> Tensor:
    """How often each expert won each layer, those without an object left out, ``(T, K)``."""
    one_hot = nn.functional.one_hot(result.k, experts)  # (B, T, K)
    return (one_hot * (result.area >= NOTHING)[:, :, None]).sum(0)
