"""The networks of a training step alone: what the step would take if there were nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from econ_pyro.accel.execution import Execution


class BareNetworks:
    """Forward and backward passes of the networks that a step calls, on what they were given.

    Nothing happens between the networks: no scopes, no distributions, no loss, no optimiser. Each
    gets its inputs as constants, with gradients where it had them in the step, and ones as the
    gradient of its outputs. Counted are calls of the networks themselves, not of their other
    methods, and no gradients that a step takes within itself.

    Args:
        model: a scene model; its networks are in the lists of its programs.
        step: a training step of it, which is taken once.
        execution: how the networks are run.
        device: where they are.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Callable[[], object],
        execution: Execution,
        device: torch.device,
    ) -> None:
        self._calls: list[tuple[nn.Module, Any, Any, bool]] = []
        self._execution, self._device = execution, device
        networks = [*_networks(model)]
        self._parameters = [p for network in networks for p in network.parameters()]
        hooks = [
            network.register_forward_pre_hook(self._record, with_kwargs=True)
            for network in networks
        ]
        try:
            step()
        finally:
            for hook in hooks:
                hook.remove()

    def __len__(self) -> int:
        """Number of calls in a step."""
        return len(self._calls)

    def __call__(self) -> None:
        """Call all of them, and their backward passes."""
        for p in self._parameters:
            p.grad = None
        outputs = list[Tensor]()
        with self._execution(self._device):
            for network, inputs, named, grad in self._calls:
                with torch.set_grad_enabled(grad):
                    found = _tensors(network(*inputs, **named))
                    outputs += (a for a in found if a.requires_grad)
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(a) for a in outputs])

    def _record(self, network: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        grad = torch.is_grad_enabled()
        self._calls.append((network, _constant(inputs), _constant(named), grad))


def _networks(model: nn.Module) -> Iterator[nn.Module]:
    for program in model.children():
        for group in program.children():
            if isinstance(group, nn.ModuleList):
                yield from group


def _constant(value: Any) -> Any:
    """The same without its history."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, tuple | list):
        return tuple(map(_constant, value))
    if isinstance(value, dict):
        return {name: _constant(part) for name, part in value.items()}
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
