"""Compiling (torch's inductor) what runs many small operations.

Compiling takes a minute or two, and pays where thousands of steps follow. Torch keeps its results
on disk for the next run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from econ_pyro.errors import EconError

P = ParamSpec("P")
R = TypeVar("R")

_on: ContextVar[bool] = ContextVar("fusing", default=False)


def check_compiler(device: torch.device) -> None:
    """Look for what torch's compiler needs.

    Raises:
        EconError: it is not there.
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
def fusing(on: bool = True) -> Iterator[None]:
    """Compile networks and functions that are :func:`fused`."""
    before = _on.set(on)
    try:
        yield
    finally:
        _on.reset(before)


def fused(
    function: Callable[P, R], dynamic: bool = False, ensemble: bool = False
) -> Callable[P, R]:
    """A function of tensors, compiled for their shapes under :func:`fusing`.

    Args:
        function: gives tensors or tuples of them, nothing else.
        dynamic: compiled for all shapes, and all numbers among the arguments.
        ensemble: it runs several networks, on a GPU side by side, which one graph could not.
    """
    tried = False

    @wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal tried
        if torch.compiler.is_compiling() or not _on.get() or not _pays(ensemble):
            return function(*args, **kwargs)
        if not tried:  # what torch looks up once and keeps, as KLs are, its compiler can follow
            tried = True
            with fusing(False):  # what it calls will be in its graph: none of its own
                return function(*args, **kwargs)
        return _compiled(function, dynamic)(*args, **kwargs)

    return either


def run(network: nn.Module, *args: Tensor) -> Tensor:
    """Output of a network for batches of any size, ``(n, ...)``: compiled under :func:`fusing`."""
    if torch.compiler.is_compiling() or not _on.get():
        return network(*args)
    for a in args:
        torch._dynamo.maybe_mark_dynamic(a, 0)
    # one graph serves all networks of a class, as their weights are inputs of it
    return _compiled(type(network).forward, None)(network, *args)


def _pays(ensemble: bool) -> bool:
    # on CPUs, functions of few operations became slower with their gradients: 179 to 195 ms the
    # winners' half of a step of the paper's size
    return not ensemble if torch.cuda.is_available() else not torch.is_grad_enabled()


@cache
def _compiled(function: Callable[P, R], dynamic: bool | None) -> Callable[P, R]:
    # the checks of a graph's tensors take a hundredth of a step on two cores
    return torch.compile(function, dynamic=dynamic, options={"size_asserts": False})
