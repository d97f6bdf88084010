"""Networks of several experts on several cores, forward and backward.

Experts share no weights, so nothing of one network waits for another: of K networks that each have
their own images, every core takes one after the other
(:func:`econ_pyro.accel.cpu_cores.parallel_map`).
Autograd goes backward in one thread. Under :func:`separate_graphs` each network therefore keeps a
graph of its own, and gradients are computed side by side as well. Those of several uses of a
weight add up in the graph that holds them together, in its order and in float32, whoever computed
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from econ_pyro.accel.cpu_cores import parallel_map

_separate: ContextVar[bool] = ContextVar("separate_graphs", default=False)


@contextmanager
def separate_graphs() -> Iterator[None]:
    """Within the block, :func:`run` gives each network a graph, which goes backward once."""
    before = _separate.set(True)
    try:
        yield
    finally:
        _separate.reset(before)


def run(networks: Sequence[nn.Module], inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Output of each network for its own inputs, by the cores that :mod:`parallel` has.

    Args:
        networks: one or more.
        inputs: arguments of each.
    """
    jobs = list(zip(networks, inputs, strict=True))
    if len(jobs) == 1 or inputs[0][0].device.type != "cpu":
        return [network(*args) for network, args in jobs]
    if not torch.is_grad_enabled():
        no_grad = _Modes(False)
        return parallel_map(lambda job: no_grad.call(job[0], job[1]), jobs)
    if not _separate.get():
        return [network(*args) for network, args in jobs]
    learnt = [[p for p in network.parameters() if p.requires_grad] for network in networks]
    leaves = [(*args, *own) for args, own in zip(inputs, learnt, strict=True)]
    counts = [len(args) for args in inputs]
    return list(_Separate.apply(networks, counts, *(a for own in leaves for a in own)))


class _Modes:
    """What torch keeps per thread, as it is now, to be set in another one."""

    def __init__(self, grad: bool) -> None:
        self._grad, self._amp = grad, torch.is_autocast_enabled("cpu")
        self._dtype = torch.get_autocast_dtype("cpu")

    def call(self, network: nn.Module, args: Sequence[Tensor]) -> Tensor:
        # no cache of cast weights: threads share it, and each network uses each weight once
        amp = torch.autocast("cpu", self._dtype, self._amp, cache_enabled=False)
        with torch.set_grad_enabled(self._grad), amp:
            if self._grad:  # hooks on a module's inputs, as torch's counters have, hold no leaves
                args = [a.view_as(a) for a in args]
            return network(*args)


class _Separate(torch.autograd.Function):
    """K networks, each with its own inputs and weights among the arguments."""

    @staticmethod
    def forward(
        ctx: Any, networks: Sequence[nn.Module], counts: Sequence[int], *leaves: Tensor
    ) -> tuple[Tensor, ...]:
        # in here gradients are off; what needs one is still told by its flag
        ctx.sizes, at, jobs = [], 0, []
        for network, count in zip(networks, counts, strict=True):
            size = count + sum(p.requires_grad for p in network.parameters())
            jobs.append((network, leaves[at : at + size], count))
            ctx.sizes.append(size)
            at += size
        modes = _Modes(True)

        def forward(
            job: tuple[nn.Module, Sequence[Tensor], int],
        ) -> tuple[Tensor, list[Tensor]]:
            network, own, count = job
            args = [a.detach().requires_grad_(a.requires_grad) for a in own[:count]]
            return modes.call(network, args), [*args, *own[count:]]

        ctx.graphs = parallel_map(forward, jobs)
        return tuple(out.detach() for out, _ in ctx.graphs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        def backward(
            job: tuple[tuple[Tensor, list[Tensor]], Tensor],
        ) -> list[Tensor | None]:
            (out, leaves), grad = job
            wanted = [a for a in leaves if a.requires_grad]
            if not out.requires_grad:  # a frozen expert whose inputs need no gradient
                return [None] * len(leaves)
            found = iter(torch.autograd.grad(out, wanted, grad, allow_unused=True))
            return [next(found) if a.requires_grad else None for a in leaves]

        graphs, ctx.graphs = ctx.graphs, None  # they are gone with the gradients
        found = parallel_map(backward, list(zip(graphs, grads, strict=True)))
        return None, None, *(g for own in found for g in own)
