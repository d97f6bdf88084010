"""Compiling (torch's inductor) what runs many small operations.

Compiling takes a minute or two, and pays where thousands of steps follow. Torch keeps its results
on disk for the next run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from econ_pyro.accel.compiler_options import compiler_options
from econ_pyro.accel.packed import packed
from econ_pyro.errors import EconError

P = ParamSpec("P")
R = TypeVar("R")

_on: ContextVar[bool] = ContextVar("fusing", default=False)
_tried: set[Callable[..., Any]] = set()  # what has run once, not compiled


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


def compiles() -> bool:
    """Whether what runs now is compiled, or is part of a graph that is."""
    return torch.compiler.is_compiling() or _on.get()


def fused(
    function: Callable[P, R], dynamic: bool = False, ensemble: bool = False
) -> Callable[P, R]:
    """A function of tensors, compiled for their shapes under :func:`fusing`.

    On CPUs its gradient is a compiled function, too, of its inputs alone, from which it computes
    again what it needs. There must be no chance in the function.

    Args:
        function: gives tensors or tuples of them, nothing else; takes no keywords.
        dynamic: compiled for all shapes, and all numbers among the arguments.
        ensemble: it runs several networks, on a GPU side by side, which one graph could not.
    """

    @wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or not _on.get() or (ensemble and _gpu()):
            return function(*args, **kwargs)
        if function not in _tried:  # what torch looks up once, as KLs are, its compiler can follow
            _tried.add(function)
            with fusing(False):  # what it calls will be in its graph: none of its own
                return function(*args, **kwargs)
        if not torch.is_grad_enabled() or _gpu():
            return _compiled(function, dynamic)(*args, **kwargs)
        assert not kwargs
        return _Recomputed.apply(function, dynamic, *args)

    return either


def run(network: nn.Module, *args: Tensor) -> Tensor:
    """Output of a network for batches of any size, ``(n, ...)``: compiled under :func:`fusing`."""
    if torch.compiler.is_compiling() or not _on.get():
        return network(*args)
    for a in args:
        torch._dynamo.maybe_mark_dynamic(a, 0)
    if torch.is_grad_enabled() and (of := packed(network)) is not None:
        return of.run(*args)
    # one graph serves all networks of a class, as their weights are inputs of it
    return _compiled(type(network).forward, None)(network, *args)


def _gpu() -> bool:
    return torch.cuda.is_available()


class _Recomputed(torch.autograd.Function):
    """A compiled function and its compiled gradient.

    As torch compiles gradients, what they share passes through memory, in strides of its choice:
    a step of ``quick`` gained nothing by it.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, function: Callable[..., Any], dynamic: bool, *args: Any) -> Any:
        ctx.function, ctx.dynamic = function, dynamic
        ctx.others = [None if isinstance(a, Tensor) else a for a in args]
        ctx.save_for_backward(*(a if isinstance(a, Tensor) else None for a in args))
        return _compiled(function, dynamic)(*args)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.others, strict=True)
        args = [other if tensor is None else tensor for tensor, other in pairs]
        _, _, *needed = ctx.needs_input_grad
        found = iter(_compiled(_gradient(ctx.function), ctx.dynamic)(needed, args, grads))
        return None, None, *(next(found) if n else None for n in needed)


@cache
def _gradient(function: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """Its gradients by the arguments that need one, given those by what it gives."""

    def gradient(
        needed: Sequence[bool], args: Sequence[Any], grads: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        def of(*learnt: Tensor) -> tuple[Tensor, ...]:
            given = iter(learnt)
            out = function(*(next(given) if n else a for n, a in zip(needed, args, strict=True)))
            return out if isinstance(out, tuple) else (out,)

        back = torch.func.vjp(of, *(a for n, a in zip(needed, args, strict=True) if n))[1]
        return back(tuple(grads))

    # torch counts graphs by code, and makes no more than eight of one
    gradient.__code__ = gradient.__code__.replace(co_name=f"gradient_of_{function.__name__}")
    return gradient


@cache
def _compiled(function: Callable[P, R], dynamic: bool | None) -> Callable[P, R]:
    return torch.compile(function, dynamic=dynamic, options=compiler_options())
