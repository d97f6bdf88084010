"""Networks without values: to know what a configuration asks for before room is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from econ_pyro.core.ensemble import Ensemble

M = TypeVar("M", bound=nn.Module)


class _WithoutValues(TorchFunctionMode):
    """Weights that layers make are on the device ``meta``, and nothing begins them.

    All of a module on that device would do, too, but torch imports its compiler for some of it.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        kinds: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        inside = getattr(function, "__module__", None) == "torch.nn.init"
        if inside or function in (Tensor.normal_, Tensor.uniform_):
            return given["tensor"] if "tensor" in given else args[0]
        if function is torch.empty:
            given["device"] = "meta"
        return function(*args, **given)


def without_values(make: Callable[[], M]) -> M:
    """A module whose layers' weights have sizes and types, and take no room."""
    with _WithoutValues():
        return make()


def state_of(module: nn.Module, experts: int) -> dict[str, Tensor]:
    """What the state of a module with more experts would hold, but for its own constants.

    Args:
        module: one with ensembles of one network each.
        experts: number of networks in each.
    """
    ensembles = [name for name, own in module.named_children() if isinstance(own, Ensemble)]
    state = {}
    for name, tensor in module.state_dict().items():
        above, _, rest = name.partition(".0.")
        if above in ensembles:
            state.update({f"{above}.{k}.{rest}": tensor for k in range(experts)})
        else:
            state[name] = tensor
    return state
