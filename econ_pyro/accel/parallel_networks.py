"""Parallel forward and backward passes of several networks on CPU cores.

The networks of different experts share no weights, so their passes are independent tasks
(:func:`econ_pyro.accel.cpu_cores.parallel_map`). Autograd runs the backward pass of a graph in one
thread. Under :func:`separate_graphs`, each network therefore has its own graph, and the backward
passes run in parallel as well. The outer graph accumulates the gradients of weights that are used
several times, in float32 and in a fixed order, so results do not depend on the threads.
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
    """Let :func:`run` give each network its own graph; each supports one backward pass."""
    before = _separate.set(True)
    try:
        yield
    finally:
        _separate.reset(before)


def run(networks: Sequence[nn.Module], inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Compute the output of each network for its own inputs, in parallel on a CPU.

    Args:
        networks: at least one network.
        inputs: arguments of each network.
    """
    jobs = list(zip(networks, inputs, strict=True))
    if len(jobs) == 1 or inputs[0][0].device.type != "cpu":
        return [network(*args) for network, args in jobs]
    if not torch.is_grad_enabled():
        no_grad = _ThreadState(False)
        return parallel_map(lambda job: no_grad.call(job[0], job[1]), jobs)
    if not _separate.get():
        return [network(*args) for network, args in jobs]
    weights = [[p for p in network.parameters() if p.requires_grad] for network in networks]
    leaves = [(*args, *own) for args, own in zip(inputs, weights, strict=True)]
    counts = [len(args) for args in inputs]
    return list(_SeparateGraphs.apply(networks, counts, *(a for own in leaves for a in own)))


class _ThreadState:
    """Thread-local settings of torch, to be used in another thread."""

    def __init__(self, grad: bool) -> None:
        self._grad, self._amp = grad, torch.is_autocast_enabled("cpu")
        self._dtype = torch.get_autocast_dtype("cpu")

    def call(self, network: nn.Module, args: Sequence[Tensor]) -> Tensor:
        # threads share autocast's cache of weights; each network uses each weight only once
        amp = torch.autocast("cpu", self._dtype, self._amp, cache_enabled=False)
        with torch.set_grad_enabled(self._grad), amp:
            if self._grad:  # hooks on inputs, as in torch's FLOP counter, do not support leaves
                args = [a.view_as(a) for a in args]
            return network(*args)


class _SeparateGraphs(torch.autograd.Function):
    """K networks in one node of the outer graph; its arguments are their inputs and weights."""

    @staticmethod
    def forward(
        ctx: Any, networks: Sequence[nn.Module], counts: Sequence[int], *leaves: Tensor
    ) -> tuple[Tensor, ...]:
        # gradients are disabled here, but requires_grad is still set
        start, jobs = 0, []
        for network, count in zip(networks, counts, strict=True):
            size = count + sum(p.requires_grad for p in network.parameters())
            jobs.append((network, leaves[start : start + size], count))
            start += size
        state = _ThreadState(True)

        def forward(
            job: tuple[nn.Module, Sequence[Tensor], int],
        ) -> tuple[Tensor, list[Tensor]]:
            network, own, count = job
            args = [a.detach().requires_grad_(a.requires_grad) for a in own[:count]]
            return state.call(network, args), [*args, *own[count:]]

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
            if not out.requires_grad:  # frozen, and no input requires a gradient
                return [None] * len(leaves)
            found = iter(torch.autograd.grad(out, wanted, grad, allow_unused=True))
            return [next(found) if a.requires_grad else None for a in leaves]

        graphs, ctx.graphs = ctx.graphs, None  # free the graphs
        found = parallel_map(backward, list(zip(graphs, grads, strict=True)))
        return None, None, *(g for own in found for g in own)
