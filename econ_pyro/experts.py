"""Apply an ensemble of K experts, each to the images that it won.

The networks of the K experts are separate modules: a loser of a step is not in the graph at all,
so its gradient is None and no optimiser moves it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

# oneDNN builds a kernel for every new batch size: groups are padded up to a multiple of this
GROUP = 8


def dispatch(
    experts: Sequence[nn.Module] | nn.ModuleList, k: int | Tensor, *args: Tensor
) -> Tensor:
    """Output of expert k[b] for image b, in float32.

    Args:
        experts: K modules of the same signature, tensors ``(n, ...)`` to a tensor ``(n, ...)``.
        k: one expert for the whole batch, or ``(B,)`` int64, an expert for each image.
        *args: inputs, each ``(B, ...)``.

    Returns:
        ``(B, ...)`` in the order of the batch.
    """
    if isinstance(k, int):
        return experts[k](*args).float() if args[0].dtype != torch.float64 else experts[k](*args)
    groups = [(k == e).nonzero().squeeze(1) for e in range(len(experts))]
    outputs = []
    for expert, rows in enumerate(groups):
        n = len(rows)
        if n:
            padded = torch.cat([rows, rows[:1].expand(-n % GROUP)]) if n % GROUP else rows
            outputs.append(dispatch(experts, expert, *(a[padded] for a in args))[:n])
    return torch.cat(outputs)[torch.cat(groups).argsort()]


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
