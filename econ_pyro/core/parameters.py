"""Parameters of networks in Pyro's hands: its store, and handlers that give other values.

``pyro.module`` declares parameters but leaves a module's own in use. Under ``poutine.lift``, which
draws weights from a prior, or ``poutine.substitute``, the drawing would not know of it: here the
networks run with the values that the handlers give.
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

from econ_pyro.core.handlers import undisturbed
from econ_pyro.errors import EconError


@contextmanager
def program(**ensembles: nn.ModuleList) -> Iterator[None]:
    """Run a program of networks whose parameters are Pyro's.

    Those of expert k are declared as ``NAME_k$$$...``, as ``pyro.module`` does; frozen ones are
    not. Where a handler gives another value (``poutine.lift``, ``substitute``), the network runs
    with it: a prior's draw of fewer dimensions, as of ``Normal(0, 1)``, is spread over the tensor.

    Under ``pyro.settings.set(module_local_params=True)`` nothing goes into Pyro's store, as for a
    ``PyroModule``: the caller then holds the parameters itself.

    Args:
        **ensembles: the networks, by the name of their parameters.

    Raises:
        EconError: a value does not fit its parameter, or another thread runs a program.
    """
    with undisturbed():
        before: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for name, ensemble in ensembles.items():
                for k, network in enumerate(ensemble):
                    for module, leaf, value in _given(f"{name}_{k}", network):
                        before.append((module, leaf, module._parameters[leaf]))  # type: ignore[arg-type]
                        module._parameters[leaf] = value  # type: ignore[assignment]
            yield
        finally:
            for module, leaf, own in reversed(before):
                module._parameters[leaf] = own


def _given(name: str, network: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Declare a network's parameters; those for which handlers give other values."""
    local = pyro.settings.get("module_local_params")
    # of what is not declared, no handler that has a say in parameters would know
    if local and not any(hasattr(handler, "_pyro_param") for handler in _PYRO_STACK):
        return []
    others, strange = [], False
    for path, own in network.named_parameters():
        if not (isinstance(own, nn.Parameter) and own.requires_grad):
            continue  # frozen, or somebody put a sample in its place
        full = param_with_module_name(name, path)
        value = _declare_local(full, own) if local else pyro.param(full, own)
        if value is own:
            continue
        if not local and value is pyro.get_param_store()._params.get(full):
            strange = True
            continue
        parent, _, leaf = path.rpartition(".")
        others.append((network.get_submodule(parent), leaf, _fit(full, value, own)))
    if strange:
        # pyro keeps the first module of a name and leaves the second detached, silently; it also
        # copies, and so detaches, weights that are not contiguous (channels_last)
        warnings.warn(
            f"the parameters that Pyro holds as {name!r} are not this module's (another "
            "module came first, or its weights are channels_last), so Pyro's optimisers will "
            "not train it: call pyro.clear_param_store() before the first step, or "
            "pyro.settings.set(module_local_params=True) and use a torch optimiser",
            stacklevel=5,
        )
    return others


def _declare_local(name: str, own: nn.Parameter) -> Tensor:
    """A parameter statement that handlers see, and Pyro's store does not."""
    declare = effectful(type="param")(lambda *_, **__: own)
    return declare(name, own, constraint=constraints.real, event_dim=None, name=name)


def _fit(name: str, value: Tensor, own: nn.Parameter) -> Tensor:
    try:
        return torch.as_tensor(value).to(own).expand_as(own)
    except RuntimeError:
        got = tuple(value.shape)
        raise EconError(f"a value of shape {tuple(own.shape)} for {name}", str(got)) from None
