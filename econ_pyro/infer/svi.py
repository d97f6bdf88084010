"""A training step by competition, in the manner of ``pyro.infer.SVI``.

:meth:`CompetitiveSVI.update` is the step: the experts compete (section 5.2, in
:mod:`~econ_pyro.infer.competition`), then the winners take a gradient step of Eq. 13
(:mod:`~econ_pyro.infer.elbo`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from econ_pyro.accel.execution import Execution
from econ_pyro.accel.parallel_networks import separate_graphs
from econ_pyro.core.handlers import one_at_a_time
from econ_pyro.core.selection import Draws, Selection
from econ_pyro.infer.competition import Competition
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import ClassConditionalELBO, Terms


class Step(NamedTuple):
    """What a training step computed, detached."""

    loss: Tensor
    """Eq. 13 negated, mean over scenes, a scalar in nats."""
    terms: Terms
    """Eqs. 10-12 of each layer, ``(B, T)``."""
    k: Tensor
    """The winners, front to back, ``(B, T)``."""
    area: Tensor
    """Share of the image in each winner's region, ``(B, T)``."""


class CompetitiveSVI:
    """Competition, then a gradient step of the class-conditional ELBO.

    The competition runs without gradients on all K experts; the ELBO runs on the winners alone,
    with the same noise. Losers are not in the graph: their gradients are None and the optimiser
    leaves them bit-unchanged. Gradients do flow through the scope to the attention of earlier
    winners.

    Args:
        model: p, a program of ``(x, k)`` with the methods of
            :class:`~econ_pyro.infer.protocols.Model`.
        guide: q, a program of ``(x, k)`` with those of :class:`~econ_pyro.infer.protocols.Guide`.
        optim: a torch optimiser over the parameters of both.
        elbo: the objective.
        competition: selects the experts.
        execution: precision, compilation, and the processes that share each batch: ``step`` then
            takes this process's share.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        optim: Optimizer,
        elbo: ClassConditionalELBO,
        competition: Competition,
        execution: Execution | None = None,
    ) -> None:
        self.model, self.guide, self.optim = model, guide, optim
        self.elbo, self.competition = elbo, competition
        self.execution = execution or Execution()
        self._terms: Callable[..., tuple[Tensor, ...]] = self._terms_module()
        if self.execution.group.size > 1:
            # experts that lost in all processes keep their gradients of None
            self._terms = DistributedDataParallel(self._terms, find_unused_parameters=True)

    def step(self, x: Tensor, evidence: Tensor | None = None) -> float:
        """One training step.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            evidence: true regions, ``(B, T, 1, H, W)``, for a competition that takes them.

        Returns:
            Eq. 13 negated, mean over scenes, in nats.
        """
        return self.update(x, evidence).loss.item()

    def update(self, x: Tensor, evidence: Tensor | None = None) -> Step:
        """The same; the result does not wait for a GPU."""
        won = self.compete(x, evidence)  # section 5.2
        loss, terms = self.gradients(x, won)  # Eq. 13
        self.optim.step()
        return Step(loss, terms, won.k, won.area / x[0, 0].numel())

    def compete(self, x: Tensor, evidence: Tensor | None = None) -> Selection:
        """The first half of a step: all experts compete, without gradients."""
        draws = self.draw(x)
        with self.execution(x.device):
            return self.competition(self.model, self.guide, x, evidence, draws)  # type: ignore[arg-type]

    def gradients(self, x: Tensor, won: Selection) -> tuple[Tensor, Terms]:
        """The second half: gradients of the winners; the loss and its terms, detached."""
        self.optim.zero_grad(set_to_none=True)
        with self._learning(x.device):
            terms = Terms(*self._terms(x, won))
            loss = self.elbo.loss_of(terms)
        loss.backward()
        return loss.detach(), terms.map(torch.Tensor.detach)

    def draw(self, x: Tensor) -> Draws:
        """Random numbers for a competition: this process's share of what all draw alike."""
        group = self.execution.group
        with one_at_a_time():  # another thread may draw from a seed of its own
            whole = self.competition.draw(self.model, len(x) * group.size, x)  # type: ignore[arg-type]
        return Draws(*(None if a is None else group.share(a) for a in whole))  # type: ignore[arg-type]

    def decompose(self, x: Tensor, evidence: Tensor | None = None) -> Decomposition:
        """Posterior means and the best expert for each layer, as the competition has it."""
        with self.execution(x.device):
            return self.competition.decompose(self.model, self.guide, x, evidence)  # type: ignore[arg-type]

    def _terms_module(self) -> ElboTerms:
        return ElboTerms(self.model, self.guide, self.elbo)

    @contextmanager
    def _learning(self, device: torch.device) -> Iterator[None]:
        # the optimiser holds the parameters: nothing goes into Pyro's global store
        local = pyro.settings.context(module_local_params=True)
        with self.execution(device), one_at_a_time(), local, separate_graphs():
            yield


class ElboTerms(nn.Module):
    """The ELBO's terms as a module, the unit that torch distributes."""

    def __init__(self, model: nn.Module, guide: nn.Module, elbo: ClassConditionalELBO) -> None:
        super().__init__()
        self.model, self.guide, self.elbo = model, guide, elbo
        # a leaf, always 0, of every loss: even where only frozen experts won there is a graph, and
        # this process's share of the others' gradients
        device = next(model.parameters()).device
        self.anchor = nn.Parameter(torch.zeros((), device=device))

    def forward(self, x: Tensor, won: Selection) -> tuple[Tensor, ...]:
        """Eqs. 10-12 of the winners, ``(B, T)`` each."""
        guide: Any = self.guide
        l_x, l_z, l_r = self.elbo.terms(self.model, guide.given(won), x, won.k)
        return l_x + self.anchor, l_z, l_r
