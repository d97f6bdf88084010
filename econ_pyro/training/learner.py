"""What training changes, and how it changes with its age: weights, optimiser, rate, handicaps."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from econ_pyro.accel.amp import has_bfloat16
from econ_pyro.accel.compile import check_compiler
from econ_pyro.accel.packed import Packed, PackedAdam, pack
from econ_pyro.config import Config
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.whitening import moments, refit
from econ_pyro.infer.batched import BatchedELBO
from econ_pyro.infer.cuda_graph_svi import CapturedSVI
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.proposals import Rules
from econ_pyro.infer.svi import CompetitiveSVI, Step
from econ_pyro.io.expert_file import freeze, learns
from econ_pyro.training import checkpoint, resume_checks
from econ_pyro.training.distributed import World
from econ_pyro.training.load_balancing import copy_expert, handicapped, starved
from econ_pyro.training.schedules import gamma_at, rate_at, temperature_at

FEW = 10  # layers say too little of the mean and spread of latents
NOTHING = 0.02  # of the image: who wins less has no object by it, and may still be starved


def make_rules(config: Config) -> Rules:
    """The competition of a configuration, as in training."""
    model, objective = config.model, config.objective
    return Rules(
        model.experts,
        model.steps,
        model.sigma_x,
        objective.lam,
        objective.temperature,
        objective.order_from is not None,
    )


class Learner:
    """Model and guide with all that goes with their learning.

    Args:
        config: of the run.
        model: p, with ``decoders`` and ``flat``.
        guide: q, with ``attentions`` and ``encoders``.
        device: where the networks are.
        world: the processes that share each batch.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        guide: nn.Module,
        device: torch.device,
        world: World,
    ) -> None:
        self.config, self.model, self.guide, self.world = config, model, guide, world
        self._ensembles = [model.decoders, guide.attentions, guide.encoders]
        freeze(self._ensembles, range(config.train.frozen))  # type: ignore[arg-type]
        parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
        self._shapes = [p.shape for p in parameters]
        packs: list[Packed] = []
        if config.compile and device.type == "cpu" and world.size == 1:
            for ensemble in self._ensembles:  # DDP waits for the gradient of each parameter
                assert isinstance(ensemble, Ensemble)
                packs += pack(filter(learns, ensemble), ensemble.prepares)
        self.optim = PackedAdam(parameters, packs, config.train.lr)
        # "5 evaluations without improvement": torch counts those after the first
        self.schedule = ReduceLROnPlateau(
            self.optim,
            factor=10**-0.5,
            patience=config.train.patience - 1,
            threshold=0.0,
            threshold_mode="abs",
        )
        self._new_schedule = copy.deepcopy(self.schedule.state_dict())
        if config.compile:
            check_compiler(device)
        captured = config.graphs and device.type == "cuda" and world.size == 1
        self.svi = (CapturedSVI if captured else CompetitiveSVI)(
            model,
            guide,
            self.optim,
            BatchedELBO(config.model.sigma_x, config.objective.beta, gamma_at(config, 0)),
            make_rules(config),
            config.model.expert.latent,
            amp=config.amp and has_bfloat16(device),
            clip=config.train.clip,
            world=world,
            occlude=config.objective.occlude,
            compiled=config.compile,
        )
        steps, experts = config.model.steps, config.model.experts
        self.window = torch.zeros(steps, experts, dtype=torch.long, device=device)
        self.handicap = torch.zeros(experts, device=device)
        self.balancing = False

    @property
    def rate(self) -> float:
        """The optimiser's learning rate."""
        return self.optim.param_groups[0]["lr"]

    def step(self, x: Tensor, regions: Tensor | None, age: int) -> Step:
        """A step of learning.

        Args:
            x: this process's images, ``(B, 3, H, W)``.
            regions: true regions, if they are given, ``(B, T, 1, H, W)``.
            age: steps before this one, what schedules count.

        Returns:
            What it saw, as ``CompetitiveSVI.learn``.
        """
        self.apply_schedules(age)
        step = self.svi.learn(x, self.svi.elect(x, regions), regions)
        self._count_wins(step)
        self._restart_starved(age + 1)
        return step

    def evaluated(self, loss: float) -> None:
        """Tell the plateau schedule the validation loss."""
        if self.config.train.schedule == "plateau":
            self.schedule.step(loss)

    @torch.no_grad()
    def fit_units(self, d: Decomposition) -> None:
        """Units of the experts' latents by what each won (:mod:`econ_pyro.core.whitening`).

        Args:
            d: this process's share of validation scenes.
        """
        decoders, _, encoders = self._ensembles
        pairs = zip(decoders, encoders, strict=True)  # type: ignore[arg-type]
        sums = self._moments(d)
        for row, (decoder, encoder) in zip(self.world.sum(sums), pairs, strict=True):
            if row[0] >= FEW and learns(encoder):
                refit(encoder.units, decoder.units, row)

    def _moments(self, d: Decomposition) -> Tensor:
        """:func:`~econ_pyro.core.whitening.moments` of the layers in which there is something."""
        experts, latent = len(self.handicap), d.z.shape[-1]
        if not len(d):  # this process has no scene
            return torch.zeros(experts, 1 + 2 * latent, dtype=torch.float64, device=d.z.device)
        k, r = d.k.flatten(), d.region.flatten(0, 1)
        x = d.image.repeat_interleave(d.k.shape[1], 0)
        q_z = self.guide.encode(x, r, k, x.new_zeros(()))  # type: ignore[operator]
        there = d.area.flatten() >= NOTHING * x[0, 0].numel()
        return moments(k[there], q_z.mean[there], q_z.variance[there], experts)

    def state(self) -> dict[str, Any]:
        """All of it, as plain containers and tensors."""
        return {
            "model": self.model.state_dict(),
            "guide": self.guide.state_dict(),
            "optim": self.optim.state_dict(),
            "schedule": self.schedule.state_dict(),
            "window": self.window,
            "handicap": self.handicap,
        }

    def check(self, state: dict[str, Any], source: Path) -> None:
        """Check a state before anything takes it.

        Raises:
            EconError: it is none of this configuration's; the message names ``source``.
        """
        checkpoint.check_weights(state.get("model"), self.model.state_dict(), source)
        checkpoint.check_weights(state.get("guide"), self.guide.state_dict(), source)
        resume_checks.check_optimiser(state.get("optim"), self._shapes, source)
        resume_checks.check_schedule(state.get("schedule"), self.schedule.state_dict(), source)
        for name in ("window", "handicap"):
            resume_checks.check_tensor(state.get(name), getattr(self, name), name, source)

    def load(self, state: dict[str, Any], source: Path) -> None:
        """Go back to a state.

        Raises:
            EconError: as :meth:`check`.
        """
        self.check(state, source)
        self.model.load_state_dict(state["model"])
        self.guide.load_state_dict(state["guide"])
        self.optim.load_state_dict(state["optim"])
        self.schedule.load_state_dict(state["schedule"])
        self.window = state["window"].to(self.window.device)
        self.handicap = state["handicap"].to(self.handicap.device)

    def begin_anew(self, model: nn.Module, guide: nn.Module) -> None:
        """Take other weights, and forget what was learnt."""
        self.model.load_state_dict(model.state_dict())
        self.guide.load_state_dict(guide.state_dict())
        self.optim.state.clear()
        self.optim.param_groups[0]["lr"] = self.config.train.lr
        self.schedule.load_state_dict(self._new_schedule)
        self.window.zero_()
        self.handicap.zero_()

    def apply_schedules(self, age: int) -> None:
        """Make everything that schedules set what it is in the step of that age."""
        objective, train = self.config.objective, self.config.train
        self.model.flat = age < train.flat_until  # type: ignore[assignment]
        self.svi.elbo.gamma = gamma_at(self.config, age)
        self.svi.rules = dataclasses.replace(
            self.svi.rules,
            temperature=temperature_at(self.config, age),
            ordered=objective.order_from is not None and age >= objective.order_from,
        )
        self.balancing = objective.balance > 0 and age < objective.balance_until
        self.svi.handicap = self.handicap if self.balancing else None
        if train.schedule == "cosine":
            for group in self.optim.param_groups:
                group["lr"] = rate_at(self.config, age)

    def _count_wins(self, step: Step) -> None:
        one_hot = nn.functional.one_hot(step.k, self.window.shape[1])  # (B, T, K)
        window = self.world.sum((one_hot * (step.area >= NOTHING)[:, :, None]).sum(0))
        self.window += window
        objective = self.config.objective
        if self.balancing:
            self.handicap = handicapped(
                self.handicap, window.sum(0), objective.balance, objective.balance_limit
            )

    def _restart_starved(self, age: int) -> None:
        train = self.config.train
        if age % train.restart_every:
            return
        if train.restart_below > 0 and age <= train.restart_until:
            for k, busiest in starved(self.window.cpu(), train.restart_below):
                if learns(self._ensembles[0][k]):  # type: ignore[index, arg-type]
                    copy_expert(self._ensembles, self.optim, busiest, k)  # type: ignore[arg-type]
                    self.handicap[k] = self.handicap[busiest]
        self.window.zero_()
