"""An ensemble of K networks of one architecture: each for the images that it won, or all at once.

The networks are separate modules: a loser of a step is not in the graph at all, so its gradient is
None and no optimiser moves it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pyro
import torch
from torch import Tensor, nn

from econ_pyro.precision import at_least_float32

# oneDNN builds a kernel for every new batch size: groups are padded up to a multiple of this
GROUP = 4


class Ensemble(nn.ModuleList):
    """K networks.

    Args:
        make: makes one of them.
        experts: number of networks K.
    """

    def __init__(self, make: Callable[[], nn.Module], experts: int) -> None:
        super().__init__(make() for _ in range(experts))

    def of_winners(self, k: Tensor, *args: Tensor) -> Tensor:
        """Output of network k[b] for image b, in float32 or better, differentiable.

        Args:
            k: ``(B,)`` int64.
            *args: inputs, each ``(B, ...)``.

        Returns:
            ``(B, ...)`` in the order of the batch.
        """
        if torch.compiler.is_compiling():  # no graph can group images: an export runs all
            everyone = torch.stack([network(*args) for network in self], 1)
            return at_least_float32(everyone[torch.arange(k.shape[0], device=k.device), k])
        groups = [(k == e).nonzero().squeeze(1) for e in range(len(self))]
        outputs = []
        for network, rows in zip(self, groups, strict=True):
            n = len(rows)
            if n == len(k):
                return at_least_float32(network(*args))
            if n:
                padded = torch.cat([rows, rows[:1].expand(-n % GROUP)]) if n % GROUP else rows
                outputs.append(network(*(a[padded] for a in args))[:n])
        return at_least_float32(torch.cat(outputs)[torch.cat(groups).argsort()])

    @torch.no_grad()
    def of_all(self, *args: Tensor) -> Tensor:
        """Output of every network, in float32 or better, without gradients.

        Args:
            *args: inputs, each ``(B, K, ...)``, of each network its own.

        Returns:
            ``(B, K, ...)``.
        """
        outputs = [network(*(a[:, k] for a in args)) for k, network in enumerate(self)]
        return at_least_float32(torch.stack(outputs, 1))


def register(prefix: str, experts: nn.ModuleList) -> None:
    """Register every expert with ``pyro.module`` as ``prefix_0``, ``prefix_1``, ...

    Under ``pyro.settings.set(module_local_params=True)`` nothing is registered, as for a
    ``PyroModule``: the caller then holds the parameters itself.
    """
    if pyro.settings.get("module_local_params"):
        return
    for k, expert in enumerate(experts):
        name = f"{prefix}_{k}"
        pyro.module(name, expert)
        # pyro keeps the first module of a name and leaves the second detached, silently; it also
        # copies, and so detaches, weights that are not contiguous (channels_last)
        first = next(iter(expert.named_parameters()))
        stored = pyro.get_param_store()._params[f"{name}$$${first[0]}"]
        if stored is not first[1]:
            warnings.warn(
                f"the parameters that Pyro holds as {name!r} are not this module's (another "
                "module came first, or its weights are channels_last), so Pyro's optimisers will "
                "not train it: call pyro.clear_param_store() before the first step, or "
                "pyro.settings.set(module_local_params=True) and use a torch optimiser",
                stacklevel=3,
            )
