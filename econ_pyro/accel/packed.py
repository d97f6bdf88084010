"""The parameters of a network in one tensor, for compiled steps on a CPU.

There each parameter costs a check, a cast, a node of the gradient's graph and a counter of Adam's,
and there are some 230. So those of one network become views of one vector, which its graph cuts
up: for a step it is one parameter. Checkpoints hold what they always did.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from econ_pyro.accel.compiler_options import compiler_options

ALIGNED = 16  # values: torch's compiler copies what does not begin at a multiple of 64 bytes

_numbers = count()
# a pack lives as long as the optimiser that moves its vector
_packs: WeakKeyDictionary[nn.Module, ref[Packed]] = WeakKeyDictionary()


class Packed:
    """A network whose parameters are views of one vector.

    The network itself stays as it is, with its gradients where it runs uncompiled; then
    :meth:`collect` brings them here.

    Args:
        network: must not be moved to another device or type from now on.
        names: of the parameters that :attr:`vector` is to hold, in its order.
        graph: of vector, buffers and inputs.

    Attributes:
        vector: what an optimiser is to move, ``(n,)``.
        parameters: those in it.
    """

    def __init__(
        self, network: nn.Module, names: Iterable[str], graph: Callable[..., Tensor]
    ) -> None:
        own = dict(network.named_parameters())
        self.parameters = [own[name] for name in names]
        self._buffers, self._graph = list(network.buffers()), graph
        with torch.no_grad():
            self.vector = nn.Parameter(self.vector_of(self.parameters))
            for p, view in zip(self.parameters, self.views(self.vector), strict=True):
                p.data = view

    def run(self, *args: Tensor) -> Tensor:
        """Output of the network, differentiable by the vector."""
        if self.parameters[0].data_ptr() != self.vector.data_ptr():
            raise RuntimeError("a network was moved to another device or type after its Learner")
        return self._graph(self.vector, self._buffers, *args)

    def views(self, values: Tensor) -> list[Tensor]:
        """What a vector like :attr:`vector` has for each parameter, in its shape."""
        parts = _cut(values, [p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def vector_of(self, values: Sequence[Tensor | None]) -> Tensor:
        """The inverse: what there is none of is 0."""
        pairs = zip(values, self.parameters, strict=True)
        parts = [(torch.zeros_like(p) if v is None else v).flatten() for v, p in pairs]
        return torch.cat([nn.functional.pad(part, (0, -len(part) % ALIGNED)) for part in parts])

    def collect(self) -> None:
        """Add gradients of the parameters, which uncompiled steps leave, to the vector's."""
        grads = [p.grad for p in self.parameters]
        if all(g is None for g in grads):
            return
        found = self.vector_of(grads)
        self.vector.grad = found if self.vector.grad is None else self.vector.grad + found
        self.clear()

    def clear(self) -> None:
        """Drop gradients of the parameters."""
        for p in self.parameters:
            p.grad = None


def pack(networks: Iterable[nn.Module], apart: Collection[str] = ()) -> list[Packed]:
    """Pack networks of one architecture, of which one graph is compiled.

    Args:
        networks: those of an ensemble that learn.
        apart: children that do not run in a network's own ``forward``, and stay as they are.

    Returns:
        Their packs, for an optimiser to keep: without one a network is as any other.
    """
    networks = list(networks)
    if not networks:
        return []
    names, graph = _graph(networks[0], apart)
    packs = [Packed(network, names, graph) for network in networks]
    _packs.update((network, ref(of)) for network, of in zip(networks, packs, strict=True))
    return packs


def packed(network: nn.Module) -> Packed | None:
    """Its pack, if it has one."""
    of = _packs.get(network)
    return None if of is None else of()


def leaves(network: nn.Module) -> list[nn.Parameter]:
    """What an optimiser of a network moves: its vector, if it is packed, and what is not in it."""
    own = list(network.parameters())
    if (of := packed(network)) is None:
        return own
    inside = set(of.parameters)
    return [of.vector, *(p for p in own if p not in inside)]


class PackedAdam(torch.optim.Adam):
    """Torch's Adam for parameters of which some are packed.

    Its state is that of Adam over the parameters, in their order, whichever are packed.

    Args:
        parameters: all of them.
        packs: those of which it moves the vector.
        lr: learning rate.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], packs: Sequence[Packed], lr: float
    ) -> None:
        inside = {p for of in packs for p in of.parameters}
        self._all, self._packs = list(parameters), list(packs)
        self._alone = [p for p in parameters if p not in inside]
        super().__init__([*(of.vector for of in packs), *self._alone], lr=lr, fused=True)

    def collect(self) -> None:
        """Bring gradients of packed parameters, which uncompiled steps leave, to the vectors."""
        for of in self._packs:
            of.collect()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, of packed parameters too."""
        super().zero_grad(set_to_none)
        for of in self._packs:
            of.clear()

    def step(self, closure: Any = None) -> Any:
        """As torch's."""
        self.collect()
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """As of ``torch.optim.Adam(parameters)``."""
        of_parameter: dict[nn.Parameter, dict[str, Any]] = {
            p: self.state[p] for p in self._alone if p in self.state
        }
        for of in self._packs:
            for name, value in self.state.get(of.vector, {}).items():
                parts = of.views(value) if value.dim() else [value.clone() for _ in of.parameters]
                for p, part in zip(of.parameters, parts, strict=True):
                    of_parameter.setdefault(p, {})[name] = part
        found = super().state_dict()
        found["state"] = {i: of_parameter[p] for i, p in enumerate(self._all) if p in of_parameter}
        found["param_groups"][0]["params"] = list(range(len(self._all)))
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of ``torch.optim.Adam(parameters)``."""
        places = {p: i for i, p in enumerate(self._all)}
        given, state = state_dict["state"], dict[int, dict[str, Any]]()
        for i, of in enumerate(self._packs):
            parts = [given.get(places[p], {}) for p in of.parameters]
            for name, value in next((part for part in parts if part), {}).items():
                values = [part.get(name) for part in parts]
                state.setdefault(i, {})[name] = of.vector_of(values) if value.dim() else value
        for i, p in enumerate(self._alone, len(self._packs)):
            if places[p] in given:
                state[i] = given[places[p]]
        (group,) = state_dict["param_groups"]
        held = list(range(len(self._packs) + len(self._alone)))
        super().load_state_dict({"state": state, "param_groups": [{**group, "params": held}]})


def _graph(network: nn.Module, apart: Collection[str]) -> tuple[list[str], Callable[..., Tensor]]:
    """Names of the parameters in a vector, and a compiled function of it, buffers and inputs."""
    layers = dict(network.named_modules())
    cast: list[str] = []  # what convolutions and products take in bfloat16: one cast for all
    others: list[str] = []
    for name, _ in network.named_parameters():
        above, _, _ = name.rpartition(".")
        if name.partition(".")[0] not in apart:
            taken = isinstance(layers[above], nn.Conv2d | nn.Linear)
            (cast if taken else others).append(name)
    buffers = [name for name, _ in network.named_buffers()]
    shapes = {name: p.shape for name, p in network.named_parameters()}
    sizes = [[shapes[name].numel() for name in names] for names in (cast, others)]
    halves = [sum(size + -size % ALIGNED for size in part) for part in sizes]
    device = next(network.parameters()).device.type
    # a copy without values: nothing that happens to the networks changes it
    skeleton = copy.deepcopy(network).to("meta")

    def forward(vector: Tensor, values: Sequence[Tensor], *args: Tensor) -> Tensor:
        low, high = vector.split(halves)
        if torch.is_autocast_enabled(device):
            low = low.to(torch.get_autocast_dtype(device))
        parts = [*_cut(low, sizes[0]), *_cut(high, sizes[1])]
        own = {n: p.view(shapes[n]) for n, p in zip((*cast, *others), parts, strict=True)}
        given = {**own, **dict(zip(buffers, values, strict=True))}
        return torch.func.functional_call(skeleton, given, args)

    # torch counts graphs by code, and makes no more than eight of one
    name = f"forward_of_{type(network).__name__}_{next(_numbers)}"
    forward.__code__ = forward.__code__.replace(co_name=name)
    return [*cast, *others], torch.compile(forward, options=compiler_options(_of_arguments))


def _cut(vector: Tensor, sizes: Iterable[int]) -> list[Tensor]:
    """Its parts of the given sizes, without what aligns them."""
    # in one go: the gradient of each slice would be as long as the vector
    pieces = [n for size in sizes for n in (size, -size % ALIGNED)]
    return list(vector.split(pieces)[::2])


def _of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which checks before a graph runs are needed: nothing but its arguments can change."""
    arguments = ("", "vector", "values", "args")  # the first: gradients, autocast, threads
    return [guard.name.partition("[")[0] in arguments for guard in guards]
