"""Keep all experts in the competition: load balancing, and restarts of starved experts.

Load balancing without an auxiliary loss, as in mixtures of experts: a bias on the competition
losses keeps experts of nearly equal losses at even shares while they diverge. An expert that wins
almost nothing learns almost nothing and goes on losing; as in sprite clustering, it is replaced by
a copy of the expert that wins most, its optimiser state included, so that the two can divide that
expert's objects between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import RecipeConfig
from econ_pyro.core.ensemble import learns
from econ_pyro.infer.competition import Competition
from econ_pyro.infer.svi import Step
from econ_pyro.training.callbacks import Callback, wins
from econ_pyro.training.schedules import steps_of

NOISE = 0.02  # of a copy, relative to each tensor's root mean square


class LoadBalancing(Callback):
    """A bias on the competition losses towards experts that win less than an even share.

    Attributes:
        bias: nats, ``(K,)``.
    """

    name = "load_balancing"

    def __init__(
        self,
        recipe: RecipeConfig,
        competition: Competition,
        experts: int,
        device: torch.device,
        group: ProcessGroup,
    ) -> None:
        self.recipe, self.competition, self.group = recipe, competition, group
        self.bias = torch.zeros(experts, device=device)

    def before_step(self, step: int, horizon: int) -> None:
        """Give the competition its bias while balancing lasts."""
        self._on = step < steps_of(self.recipe.load_balancing_until, horizon)
        self.competition.expert_bias = self.bias if self._on else None

    def after_step(self, step: int, result: Step, horizon: int) -> None:
        """Move the bias by who won."""
        if self._on:
            won = self.group.sum(wins(result, len(self.bias))).sum(0)
            recipe = self.recipe
            self.bias = balanced(
                self.bias, won, recipe.load_balancing, recipe.load_balancing_limit
            )

    def state(self) -> dict[str, Any]:
        """The bias."""
        return {"bias": self.bias}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.bias = state["bias"].to(self.bias.device)


class Restarts(Callback):
    """Starved experts become noisy copies of the busiest.

    Args:
        recipe: when.
        ensembles: networks by group and expert.
        optim: its state of each parameter is copied as well.
        slots: number of layers T.
        balancing: whose bias is copied as well, if there is any.
        device: of the counts.
        group: processes that share each batch.
    """

    name = "restarts"

    def __init__(
        self,
        recipe: RecipeConfig,
        ensembles: Sequence[nn.ModuleList],
        optim: Optimizer,
        slots: int,
        balancing: LoadBalancing | None,
        device: torch.device,
        group: ProcessGroup,
    ) -> None:
        self.recipe, self.ensembles, self.optim = recipe, ensembles, optim
        self.balancing, self.group = balancing, group
        self.wins = torch.zeros(slots, len(ensembles[0]), dtype=torch.long, device=device)

    def after_step(self, step: int, result: Step, horizon: int) -> None:
        """Count wins; at times, look for starved experts."""
        self.wins += self.group.sum(wins(result, self.wins.shape[1]))
        if step % self.recipe.restart_every:
            return
        if step <= steps_of(self.recipe.restart_until, horizon):
            for k, busiest in starved(self.wins.cpu(), self.recipe.restart_below):
                if learns(self.ensembles[0][k]):
                    copy_expert(self.ensembles, self.optim, busiest, k)
                    if self.balancing is not None:
                        self.balancing.bias[k] = self.balancing.bias[busiest]
        self.wins.zero_()

    def state(self) -> dict[str, Any]:
        """Wins since the last check."""
        return {"wins": self.wins}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.wins = state["wins"].to(self.wins.device)


def balanced(bias: Tensor, won: Tensor, rate: float, limit: float) -> Tensor:
    """Biases after a step.

    Args:
        bias: before the step, ``(K,)`` in nats.
        won: how often each expert won in the step, ``(K,)``.
        rate: nats for each even share above an even share.
        limit: largest absolute bias.
    """
    excess = len(won) * won / won.sum().clamp_min(1) - 1
    return (bias + rate * excess).clamp(-limit, limit)


def starved(won: Tensor, below: float) -> list[tuple[int, int]]:
    """Pairs (starved expert, busiest expert) to copy over.

    The expert that wins the most last layers draws backgrounds; the others are for objects, and
    an expert that shares backgrounds with it is as starved of objects as one that wins nothing.

    Args:
        won: how often each expert won each layer, front to back, ``(T, K)``.
        below: an expert is starved under this share of an even share of the objects' layers.
    """
    objects = won[:-1].sum(0).float()
    objects[won[-1].argmax()] = 0.0
    if objects.sum() < below * won[:-1].sum():
        return []  # the backgrounds' expert takes the objects as well: nothing worth a copy
    share = objects / objects.sum().clamp_min(1)
    busiest = int(share.argmax())
    others = [k for k in range(won.shape[1]) if k != int(won[-1].argmax())]
    return [(k, busiest) for k in others if share[k] < below / len(others)]


@torch.no_grad()
def copy_expert(
    ensembles: Sequence[nn.ModuleList], optim: Optimizer, source: int, target: int
) -> None:
    """Make an expert a noisy copy of another.

    Args:
        ensembles: networks by group and expert.
        optim: its state of each parameter is copied as well.
        source: expert to copy.
        target: expert to overwrite.
    """
    for experts in ensembles:
        for a, b in zip(experts[source].buffers(), experts[target].buffers(), strict=True):
            b.copy_(a)
        pairs = zip(experts[source].parameters(), experts[target].parameters(), strict=True)
        for a, b in pairs:
            size = a.square().mean().sqrt()
            b.copy_(a + NOISE * size * torch.randn_like(a))
            optim.state.pop(b, None)  # of one that is frozen there is nothing
            if a in optim.state:
                optim.state[b] = {name: v.clone() for name, v in optim.state[a].items()}
