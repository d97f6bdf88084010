"""Networks whose parameters are Pyro parameters, which handlers can replace.

``pyro.module`` registers parameters, but the module keeps using its own tensors. Handlers such as
``poutine.lift``, which samples weights from a prior, and ``poutine.substitute`` would have no
effect on its output. Here, the networks run with the values that the handlers return.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.distributions import constraints
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import _PYRO_STACK, effectful
from torch import Tensor, nn

from econ_pyro.core.handlers import exclusive
from econ_pyro.errors import EconError


@contextmanager
def program(**ensembles: nn.ModuleList) -> Iterator[None]:
    """Run a program with the parameters of networks registered in Pyro.

    The parameters of expert k are registered as ``NAME_k$$$...``, as by ``pyro.module``; frozen
    parameters are not registered. If a handler (``poutine.lift``, ``substitute``) returns another
    value, the network runs with it. Values with fewer dimensions, such as samples of
    ``Normal(0, 1)``, are expanded to the shape of the parameter.

    With ``pyro.settings.set(module_local_params=True)``, nothing is stored in Pyro's parameter
    store, as for a ``PyroModule``; the modules hold their parameters.

    Args:
        **ensembles: the networks, by the prefix of their parameters.

    Raises:
        EconError: a value does not fit its parameter, or another thread runs a program.
    """
    with exclusive():
        before: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for name, ensemble in ensembles.items():
                for k, network in enumerate(ensemble):
                    for module, leaf, value in _replaced(f"{name}_{k}", network):
                        before.append((module, leaf, module._parameters[leaf]))  # type: ignore[arg-type]
                        module._parameters[leaf] = value  # type: ignore[assignment]
            yield
        finally:
            for module, leaf, own in reversed(before):
                module._parameters[leaf] = own


def _replaced(name: str, network: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Register a network's parameters; return those that handlers replace."""
    local = pyro.settings.get("module_local_params")
    # local parameters only have to be registered if there are handlers of parameters
    if local and not any(hasattr(handler, "_pyro_param") for handler in _PYRO_STACK):
        return []
    replaced, foreign = [], False
    for path, own in network.named_parameters():
        if not (isinstance(own, nn.Parameter) and own.requires_grad):
            continue  # frozen, or already replaced by a sample
        full = param_with_module_name(name, path)
        value = _declare_local(full, own) if local else pyro.param(full, own)
        if value is own:
            continue
        if not local and value is pyro.get_param_store()._params.get(full):
            foreign = True
            continue
        parent, _, leaf = path.rpartition(".")
        replaced.append((network.get_submodule(parent), leaf, _fit(full, value, own)))
    if foreign:
        # pyro silently keeps the parameters of the first module with a name; it also copies
        # weights that are not contiguous (channels_last)
        warnings.warn(
            f"the parameters that Pyro holds as {name!r} are not this module's (another "
            "module was registered first, or its weights are channels_last), so Pyro's optimisers "
            "will not train it: call pyro.clear_param_store() before the first step, or "
            "pyro.settings.set(module_local_params=True) and use a torch optimiser",
            stacklevel=5,
        )
    return replaced


def _declare_local(name: str, own: nn.Parameter) -> Tensor:
    """Run a parameter statement that handlers see, but that Pyro's store does not record."""
    declare = effectful(type="param")(lambda *_, **__: own)
    return declare(name, own, constraint=constraints.real, event_dim=None, name=name)


def _fit(name: str, value: Tensor, own: nn.Parameter) -> Tensor:
    try:
        return torch.as_tensor(value).to(own).expand_as(own)
    except RuntimeError:
        got = tuple(value.shape)
        raise EconError(f"a value of shape {tuple(own.shape)} for {name}", str(got)) from None
