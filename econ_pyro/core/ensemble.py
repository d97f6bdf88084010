"""An ensemble of K networks of one architecture, each run on the inputs that it was selected for.

The networks are separate modules: a loser of a step is not in the graph at all, so its gradient is
None and no optimiser moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from econ_pyro.accel import dispatch, parallel_networks
from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.compile import compilable, is_compiling, run
from econ_pyro.core.tensors import check_expert_range


class Ensemble(nn.ModuleList):
    """K networks.

    Args:
        make: makes one of them.
        num_experts: number of networks K.
        shared_input: computes, for all networks that are about to run at once, one further input
            of each that is the same for all of its images; None: there is none.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        num_experts: int,
        shared_input: Callable[[Sequence[Any]], Sequence[Tensor]] | None = None,
    ) -> None:
        super().__init__(make() for _ in range(num_experts))
        self._shared_input = shared_input

    # index_select in place of indexing, whose gradient takes three to seven times as long

    def forward_selected(self, k: Tensor, *args: Tensor) -> Tensor:
        """Output of network k[n] for input n, in float32 or better, differentiable.

        Args:
            k: ``(N,)`` int64.
            *args: inputs, each ``(N, ...)``.

        Returns:
            ``(N, ...)``.

        Raises:
            EconError: there is no such network.
        """
        if torch.compiler.is_compiling():  # no graph can group inputs: an export runs all
            return self._select_after(k[:, None], *args)[:, 0]
        if capacity := dispatch.current_capacity():
            return self._in_slots(k[:, None], capacity.layers, *args)[:, 0]
        found, row = self._in_groups(k, None, args)
        return at_least_float32(found if row is None else found.index_select(0, row))

    def forward_each(self, k: Tensor, *args: Tensor) -> Tensor:
        """Output of networks k[b, n] for image b; no network sees an image twice.

        Args:
            k: ``(B, N)`` int64.
            *args: inputs, each ``(B, ...)``.

        Returns:
            ``(B, N, ...)``, in float32 or better, differentiable.

        Raises:
            EconError: there is no such network.
        """
        if torch.compiler.is_compiling():
            return self._select_after(k, *args)
        if capacity := dispatch.current_capacity():
            return self._in_slots(k, capacity.images, *args)
        if k.shape[1] == 1:
            return self.forward_selected(k[:, 0], *args)[:, None]
        check_expert_range(k, len(self))  # an unknown index would address another image below
        rows = torch.arange(k.shape[0], device=k.device)
        pairs, where = (rows[:, None] * len(self) + k).unique(return_inverse=True)
        found, row = self._in_groups(pairs % len(self), pairs // len(self), args)
        where = where.flatten() if row is None else row[where.flatten()]
        return at_least_float32(found.index_select(0, where)).unflatten(0, k.shape)

    @torch.no_grad()
    @partial(compilable, ensemble=True)
    def forward_all(self, *args: Tensor) -> Tensor:
        """Output of every network, in float32 or better, without gradients.

        Args:
            *args: inputs of each network, each ``(B, K, ...)``.

        Returns:
            ``(B, K, ...)``.
        """
        outputs = self._every(lambda e: [a[:, e] for a in args])
        return at_least_float32(torch.stack(outputs, 1))

    def _in_groups(
        self, k: Tensor, image: Tensor | None, args: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs of networks k[n] for images image[n], one batch for each network.

        Args:
            k: ``(N,)`` int64.
            image: rows of the inputs, ``(N,)``; n itself if not given.
            args: inputs.

        Returns:
            Outputs, and the row of each n among them; None if that is n.
        """
        groups = [(k == e).nonzero().squeeze(1) for e in range(len(self))]
        for network, rows in zip(self, groups, strict=True):
            if len(rows) == len(k):
                given = args if image is None else [a.index_select(0, image) for a in args]
                return self._run([network], [given])[0], None
        if sum(map(len, groups)) != len(k):
            check_expert_range(k, len(self))
        used = [(network, rows) for network, rows in zip(self, groups, strict=True) if len(rows)]
        padded = [dispatch.padded(rows) for _, rows in used]
        sizes = [len(rows) for rows in padded]
        all_rows = torch.cat(padded)
        rows = all_rows if image is None else image[all_rows]
        inputs = zip(*(a.index_select(0, rows).split(sizes) for a in args), strict=True)
        outputs = self._run([network for network, _ in used], inputs)
        places = torch.arange(len(all_rows), device=k.device).split(sizes)
        kept = torch.cat([own[: len(rows)] for own, (_, rows) in zip(places, used, strict=True)])
        return torch.cat(outputs), kept[torch.cat(groups).argsort()]

    def _select_after(self, k: Tensor, *args: Tensor) -> Tensor:
        """:meth:`forward_each`, where all networks see all images."""
        outputs = torch.stack(self._every(lambda e: args), 1)
        rows = torch.arange(k.shape[0], device=k.device)
        return at_least_float32(outputs[rows[:, None], k])

    def _in_slots(self, k: Tensor, capacity: int, *args: Tensor) -> Tensor:
        """:meth:`forward_each` in shapes that do not depend on k.

        Args:
            k: ``(B, N)`` int64; where a network has more images than slots, the outputs of those
                without a slot are undefined.
            capacity: slots of each network.
            *args: inputs, each ``(B, ...)``.
        """
        image, where = dispatch.slots(k, capacity, len(self))
        given = [a.index_select(0, image).split(capacity) for a in args]
        outputs = self._every(lambda e: [a[e] for a in given])
        found = torch.cat(outputs).index_select(0, where)
        return at_least_float32(found).unflatten(0, k.shape)

    def _every(self, inputs: Callable[[int], Sequence[Tensor]]) -> list[Tensor]:
        """Outputs of all networks: on streams of their own while a CUDA graph is captured."""
        if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            return self._run(list(self), map(inputs, range(len(self))))
        main = torch.cuda.current_stream()
        outputs = []
        for e, stream in enumerate(dispatch.streams(len(self))):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                outputs += self._run([self[e]], [inputs(e)])
        for stream in dispatch.streams(len(self)):
            main.wait_stream(stream)
        return outputs

    def _run(
        self, networks: Sequence[nn.Module], inputs: Iterable[Sequence[Tensor]]
    ) -> list[Tensor]:
        """Output of each network, on as many cores as there are for it."""
        if self._shared_input:
            pairs = zip(inputs, self._shared_input(networks), strict=True)
            inputs = [(*own, further) for own, further in pairs]
        if is_compiling():
            return [run(network, *own) for network, own in zip(networks, inputs, strict=True)]
        return parallel_networks.run(networks, list(inputs))


def learns(network: nn.Module) -> bool:
    """Whether training moves any parameter of a network."""
    return any(p.requires_grad for p in network.parameters())


def freeze(ensembles: Sequence[nn.ModuleList], experts: Iterable[int]) -> None:
    """Have training leave these experts' networks as they are."""
    for k in experts:
        for ensemble in ensembles:
            ensemble[k].requires_grad_(False)


@contextmanager
def thawed(ensembles: Sequence[nn.ModuleList]) -> Iterator[None]:
    """Have all experts' networks learn for a while, those that training leaves alone, too."""
    fixed = [p for e in ensembles for p in e.parameters() if not p.requires_grad]
    for p in fixed:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in fixed:
            p.requires_grad_(False)
