"""``--compile``: torch's inductor for networks and for functions of many small operations.

Compiling takes a minute or two and pays off over thousands of steps. Torch caches its results on
disk for the next run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from econ_pyro.errors import EconError

P = ParamSpec("P")
R = TypeVar("R")

_on: ContextVar[bool] = ContextVar("compiling", default=False)
_run_once: set[Callable[..., Any]] = set()  # functions that have run once without compilation


def check_compiler(device: torch.device) -> None:
    """Check that torch's compiler has what it needs.

    Raises:
        EconError: it is missing.
    """
    compilers: tuple[str, ...]
    if device.type == "cpu":
        own, compilers = "CXX", ("g++", "clang++", "c++", "cl")
    else:
        own, compilers = "CC", ("gcc", "clang", "cc")
        if importlib.util.find_spec("triton") is None:
            raise EconError("triton, which --compile needs on a GPU", "none", "pip install triton")
    if not any(map(shutil.which, (os.environ.get(own, compilers[0]), *compilers))):
        raise EconError(
            f"a compiler ({', '.join(compilers)}), which --compile needs",
            "none on the PATH",
            "install one (Debian: apt install g++), or leave --compile out",
        )


@contextmanager
def compiling(on: bool = True) -> Iterator[None]:
    """Compile networks and :func:`compilable` functions that are called within the block."""
    before = _on.set(on)
    try:
        yield
    finally:
        _on.reset(before)


def is_compiling() -> bool:
    """Whether this call is compiled, or part of a graph that is."""
    return torch.compiler.is_compiling() or _on.get()


def compilable(
    function: Callable[P, R], dynamic: bool = False, ensemble: bool = False
) -> Callable[P, R]:
    """A function of tensors that is compiled for their shapes under :func:`compiling`.

    On CPUs, calls that need gradients are not compiled: torch's compiled gradients of such small
    functions gain nothing there.

    Args:
        function: returns tensors or tuples of them; draws no random numbers.
        dynamic: compile once for all shapes, and for all numbers among the arguments.
        ensemble: it runs several networks, on a GPU on several streams, which one graph cannot do.
    """

    @wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or not _on.get() or (ensemble and _gpu()):
            return function(*args, **kwargs)
        if function not in _run_once:  # lookups that torch caches, KLs among them, trace poorly
            _run_once.add(function)
            with compiling(False):
                return function(*args, **kwargs)
        if torch.is_grad_enabled() and not _gpu():
            return function(*args, **kwargs)
        return _compiled(function, dynamic)(*args, **kwargs)

    return either


def run(network: nn.Module, *args: Tensor) -> Tensor:
    """Output of a network for batches of any size, ``(n, ...)``: compiled if asked for."""
    if torch.compiler.is_compiling() or not _on.get():
        return network(*args)
    for a in args:
        torch._dynamo.maybe_mark_dynamic(a, 0)
    # one graph serves all networks of a class: weights are inputs of it
    return _compiled(type(network).forward, None)(network, *args)


def _gpu() -> bool:
    return torch.cuda.is_available()


@cache
def _compiled(function: Callable[P, R], dynamic: bool | None) -> Callable[P, R]:
    return torch.compile(function, dynamic=dynamic)
