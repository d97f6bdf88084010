"""Construction of networks without allocating memory, to check a configuration in advance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from econ_pyro.errors import EconError

M = TypeVar("M", bound=nn.Module)
MOST_VALUES = 1 << 29
"""Numbers in the largest networks, parameters and constants: 2 GiB."""


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


def weights_of(
    networks: Mapping[str, Callable[[], nn.Module]],
    copies: int = 1,
    what: str = "",
    lower: str = "the sizes of the model",
) -> dict[str, Tensor]:
    """Names and sizes of weights, without values, before memory is allocated.

    Args:
        networks: makers of networks by the prefix of their weights.
        copies: how many of each there will be.
        what: of which the numbers are counted, for the error message.
        lower: options that make the networks smaller, for the error message.

    Raises:
        EconError: the networks would be larger than any that we know of.
    """
    made = {name: on_meta_device(make) for name, make in networks.items()}
    values = sum(t.numel() for m in made.values() for t in (*m.parameters(), *m.buffers()))
    if values * copies > MOST_VALUES:
        raise EconError(
            f"networks of at most {MOST_VALUES:,} numbers", f"{values:,}{what}", f"lower {lower}"
        )
    return {f"{n}.{name}": t for n, m in made.items() for name, t in m.state_dict().items()}
