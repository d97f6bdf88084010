"""Construction of networks without allocating memory, to check a configuration in advance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


class _MetaWeights(TorchFunctionMode):
    """Create weights on the device ``meta`` and skip their initialisation.

    Constructing a module under ``torch.device("meta")`` would make torch import its compiler.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        kinds: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        initialises = getattr(function, "__module__", None) == "torch.nn.init"
        if initialises or function in (Tensor.normal_, Tensor.uniform_):
            return options["tensor"] if "tensor" in options else args[0]
        if function is torch.empty:
            options["device"] = "meta"
        return function(*args, **options)


def on_meta_device(make: Callable[[], M]) -> M:
    """Make a module whose weights have shapes and types, but take no memory."""
    with _MetaWeights():
        return make()
