r"""Restricted Boltzmann machines, several of one size side by side.

Binary hidden units h of visible units v, with weights W and biases b and c:

.. math:: p(v, h) \propto \exp(-E(v, h)), \qquad
          E_{binary} = -v^\top W h - b^\top v - c^\top h, \qquad
          E_{Gauss} = \frac{\|v - b\|^2}{2 \sigma^2} - \frac{(v - b)^\top W h}{\sigma^2} - c^\top h

Summed over hidden units or over visible ones, probabilities are known up to the constant Z:
:math:`p(v) = \exp(-F(v)) / Z` with the free energy F, and :math:`p(h) \propto` the exponential of
:meth:`RBM.hidden_score`. Given the one side, units of the other are independent.

Tensors are ``(B, R, D)`` or ``(B, R, J)``: R machines of D visible and J hidden units.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F


class RBM(nn.Module, ABC):
    """R machines.

    Args:
        machines: number R.
        visible: visible units D of each.
        hidden: hidden units J of each.
        std: standard deviation of the initial weights.
    """

    def __init__(self, machines: int, visible: int, hidden: int, std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(machines, visible, hidden))
        self.visible_bias = nn.Parameter(torch.empty(machines, visible))
        self.hidden_bias = nn.Parameter(torch.empty(machines, hidden))
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.visible_bias)
        nn.init.zeros_(self.hidden_bias)

    def chosen(self, rows: Tensor) -> RBM:
        """A view of some of the machines, with repetition.

        Args:
            rows: their indices.
        """
        view = object.__new__(type(self))
        nn.Module.__init__(view)
        view.__dict__.update({k: v for k, v in self.__dict__.items() if k[0] != "_"})
        for name, value in self.named_parameters():
            object.__setattr__(view, name, value[rows])
        return view

    @abstractmethod
    def hidden_logits(self, v: Tensor) -> Tensor:
        """Logits of the hidden units given visible ones, ``(B, R, J)``."""

    @abstractmethod
    def free_energy(self, v: Tensor) -> Tensor:
        """F(v), ``(B, R)`` nats."""

    @abstractmethod
    def hidden_score(self, h: Tensor) -> Tensor:
        """Log of the sum over visible units of exp(-E), up to a constant, ``(B, R)`` nats."""

    @abstractmethod
    def draw_visible(self, h: Tensor) -> Tensor:
        """Visible units given hidden ones, ``(B, R, D)``."""

    def field(self, h: Tensor) -> Tensor:
        """What hidden units make of the visible ones, ``(B, R, D)``: logits, or Gaussian means."""
        return torch.einsum("brj,rdj->brd", h, self.weight) + self.visible_bias

    def draw_hidden(self, v: Tensor) -> Tensor:
        """Hidden units given visible ones, ``(B, R, J)`` zeros and ones."""
        return self.hidden_logits(v).sigmoid().bernoulli()

    def gibbs(self, v: Tensor, sweeps: int) -> Tensor:
        """Visible units after some sweeps of block Gibbs sampling, ``(B, R, D)``."""
        for _ in range(sweeps):
            v = self.draw_visible(self.draw_hidden(v))
        return v

    def prior_hidden(self, n: int, sweeps: int) -> Tensor:
        """Hidden units of n chains that start from their biases, ``(n, R, J)``."""
        h = self.hidden_bias.sigmoid().expand(n, -1, -1).bernoulli()
        for _ in range(sweeps):
            h = self.draw_hidden(self.draw_visible(h))
        return h


class BinaryRBM(RBM):
    """Visible units are zeros and ones."""

    def hidden_logits(self, v: Tensor) -> Tensor:
        """Logits of the hidden units given visible ones."""
        return torch.einsum("brd,rdj->brj", v, self.weight) + self.hidden_bias

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -b v - sum of softplus(W' v + c)."""
        return -(v * self.visible_bias).sum(-1) - F.softplus(self.hidden_logits(v)).sum(-1)

    def hidden_score(self, h: Tensor) -> Tensor:
        """C h + sum of softplus(W h + b)."""
        return (h * self.hidden_bias).sum(-1) + F.softplus(self.field(h)).sum(-1)

    def draw_visible(self, h: Tensor) -> Tensor:
        """Visible units given hidden ones."""
        return self.field(h).sigmoid().bernoulli()


class OneHotRBM(BinaryRBM):
    """One machine (R = 1) whose visible units are T rows of pixels, one of T on at each.

    Args:
        machines: number of layers T.
        visible: pixels.
        hidden: hidden units.
        std: standard deviation of the initial weights.

    Visible units are ``(B, T, D)``, hidden ones ``(B, 1, J)``; each layer has weights of its own.
    """

    def __init__(self, machines: int, visible: int, hidden: int, std: float = 0.01) -> None:
        super().__init__(machines, visible, hidden, std)
        self.hidden_bias = nn.Parameter(torch.empty(1, hidden))
        nn.init.zeros_(self.hidden_bias)

    def chosen(self, rows: Tensor) -> RBM:
        """The machine with some of the layers, with repetition."""
        view = super().chosen(torch.zeros_like(rows[:1]))
        for name in ("weight", "visible_bias"):
            object.__setattr__(view, name, getattr(self, name)[rows])
        return view

    def hidden_logits(self, v: Tensor) -> Tensor:
        """Logits of the hidden units given visible ones."""
        both = torch.einsum("brd,rdj->bj", v, self.weight)
        return both[:, None] + self.hidden_bias

    def field(self, h: Tensor) -> Tensor:
        """Logits of each pixel's layer, ``(B, T, D)``."""
        return torch.einsum("bj,rdj->brd", h[:, 0], self.weight) + self.visible_bias

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v), ``(B, 1)``."""
        linear = (v * self.visible_bias).sum((-2, -1))[:, None]
        return -linear - F.softplus(self.hidden_logits(v)).sum(-1)

    def hidden_score(self, h: Tensor) -> Tensor:
        """C h + sum over pixels of the log-sum-exp of their logits, ``(B, 1)``."""
        pixels = self.field(h).logsumexp(1).sum(-1, keepdim=True)
        return (h * self.hidden_bias).sum(-1) + pixels

    def draw_visible(self, h: Tensor) -> Tensor:
        """A layer for each pixel."""
        return one_of(self.field(h).softmax(1))


class GaussianRBM(RBM):
    """Visible units are Gaussian of a fixed standard deviation.

    Args:
        machines: number R.
        visible: visible units D of each.
        hidden: hidden units J of each.
        sigma: standard deviation of a visible unit given the hidden ones.
    """

    def __init__(self, machines: int, visible: int, hidden: int, sigma: float) -> None:
        # hidden units start undecided: their logits have the standard deviation of one unit
        super().__init__(machines, visible, hidden, sigma**2 / math.sqrt(visible))
        self.sigma = sigma

    def hidden_logits(self, v: Tensor) -> Tensor:
        """Logits of the hidden units given visible ones."""
        v = (v - self.visible_bias) / self.sigma**2
        return torch.einsum("brd,rdj->brj", v, self.weight) + self.hidden_bias

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = |v - b|^2 / 2 sigma^2 - sum of softplus(W' (v - b) / sigma^2 + c)."""
        squares = (v - self.visible_bias).square().sum(-1) / (2 * self.sigma**2)
        return squares - F.softplus(self.hidden_logits(v)).sum(-1)

    def hidden_score(self, h: Tensor) -> Tensor:
        """C h + |W h|^2 / 2 sigma^2."""
        drawn = self.field(h) - self.visible_bias
        squares = drawn.square().sum(-1) / (2 * self.sigma**2)
        return (h * self.hidden_bias).sum(-1) + squares

    def draw_visible(self, h: Tensor) -> Tensor:
        """Visible units given hidden ones."""
        mean = self.field(h)
        return mean + self.sigma * torch.randn_like(mean)


def one_of(probs: Tensor) -> Tensor:
    """Draw one layer for each pixel.

    Args:
        probs: ``(B, T, D)``; sums to 1 over layers.

    Returns:
        Zeros and ones, alike.
    """
    u = torch.rand_like(probs[:, :1])
    index = (probs.cumsum(1)[:, :-1] < u).sum(1, keepdim=True)
    return torch.zeros_like(probs).scatter_(1, index, 1.0)


class HiddenUnits(TorchDistribution):
    """Hidden units of one machine as a Pyro distribution; densities are not normalised.

    Args:
        score: the log density up to a constant, of units ``(..., J)``.
        draw: draws so many, ``(n, J)``; called when a value is drawn.
        batch_shape: of the units.
        units: number of units J.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = False

    def __init__(
        self,
        score: Callable[[Tensor], Tensor],
        draw: Callable[[int], Tensor],
        batch_shape: torch.Size,
        units: int,
        validate_args: bool | None = None,
    ) -> None:
        self.score, self.draw, self.units = score, draw, units
        super().__init__(batch_shape, torch.Size((units,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HiddenUnits:
        """A copy with a larger batch shape."""
        shape = torch.Size(batch_shape)
        return type(self)(self.score, self.draw, shape, self.units, self._validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Units of as many chains."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return self.draw(shape[:-1].numel()).view(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The score, of shape ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        return self.score(value.reshape(-1, self.units)).view(value.shape[:-1])
