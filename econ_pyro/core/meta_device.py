"""Networks without values: to know what a configuration asks for before room is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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


def on_meta_device(make: Callable[[], M]) -> M:
    """A module whose layers' weights have sizes and types, and take no room."""
    with _WithoutValues():
        return make()
