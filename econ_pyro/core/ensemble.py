"""An ensemble of K networks of one architecture: each for the images that it won, or all at once.

The networks are separate modules: a loser of a step is not in the graph at all, so its gradient is
None and no optimiser moves it.

What a CUDA graph replays has shapes that do not depend on who won. While one is captured each
network gets :class:`Room` for a number of images, of which the first are its own and the output of
the rest is dropped, and the networks run side by side, on streams of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from econ_pyro.accel import side_by_side
from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.compile import compiles, fused, run
from econ_pyro.core.tensors import check_known

# oneDNN builds a kernel for every new batch size: groups are padded up to a multiple of this
GROUP = 4


class Room(NamedTuple):
    """For how many images each network has room."""

    looks: int
    """Of :meth:`Ensemble.of_looks`: the most images that any looks at."""
    layers: int
    """Of :meth:`Ensemble.of_winners`: the most layers that any won."""


_room: ContextVar[Room | None] = ContextVar("room", default=None)


@contextmanager
def fixed_room(room: Room) -> Iterator[None]:
    """Give networks room for a number of images each, no more and no less."""
    before = _room.set(room)
    try:
        yield
    finally:
        _room.reset(before)


class Ensemble(nn.ModuleList):
    """K networks.

    Args:
        make: makes one of them.
        experts: number of networks K.
        prepare: makes a further input of each of several networks that are to run, the same for
            all of its images, for all networks at once; None: they have none.
        prepares: the children of each network that ``prepare`` runs, in place of its ``forward``.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        experts: int,
        prepare: Callable[[Sequence[Any]], Sequence[Tensor]] | None = None,
        prepares: Sequence[str] = (),
    ) -> None:
        super().__init__(make() for _ in range(experts))
        self._prepare, self.prepares = prepare, tuple(prepares)

    # index_select in place of indexing, whose gradient takes three to seven times as long

    def of_winners(self, k: Tensor, *args: Tensor) -> Tensor:
        """Output of network k[b] for image b, in float32 or better, differentiable.

        Args:
            k: ``(B,)`` int64.
            *args: inputs, each ``(B, ...)``.

        Returns:
            ``(B, ...)`` in the order of the batch.

        Raises:
            EconError: there is no such network.
        """
        if torch.compiler.is_compiling():  # no graph can group images: an export runs all
            return self._by_all(k[:, None], *args)[:, 0]
        if room := _room.get():
            return self._in_room(k[:, None], room.layers, *args)[:, 0]
        found, seat = self._in_groups(k, None, args)
        return at_least_float32(found if seat is None else found.index_select(0, seat))

    def of_looks(self, k: Tensor, *args: Tensor) -> Tensor:
        """Output of networks k[b, n] for image b, no network looking at an image twice.

        Args:
            k: ``(B, N)`` int64.
            *args: inputs, each ``(B, ...)``.

        Returns:
            ``(B, N, ...)``, in float32 or better, differentiable.

        Raises:
            EconError: there is no such network.
        """
        if torch.compiler.is_compiling():
            return self._by_all(k, *args)
        if room := _room.get():
            return self._in_room(k, room.looks, *args)
        if k.shape[1] == 1:
            return self.of_winners(k[:, 0], *args)[:, None]
        check_known(k, len(self))  # it would look at another image
        rows = torch.arange(k.shape[0], device=k.device)
        looks, where = (rows[:, None] * len(self) + k).unique(return_inverse=True)
        found, seat = self._in_groups(looks % len(self), looks // len(self), args)
        where = where.flatten() if seat is None else seat[where.flatten()]
        return at_least_float32(found.index_select(0, where)).unflatten(0, k.shape)

    def _in_groups(
        self, k: Tensor, image: Tensor | None, args: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs of networks k[n] for images image[n], each for its group in one.

        Args:
            k: ``(N,)`` int64.
            image: rows of the inputs, ``(N,)``; n itself if not given.
            args: inputs.

        Returns:
            Outputs, and where that of each n is among them; None if that is n.
        """
        groups = [(k == e).nonzero().squeeze(1) for e in range(len(self))]
        for network, rows in zip(self, groups, strict=True):
            if len(rows) == len(k):
                given = args if image is None else [a.index_select(0, image) for a in args]
                return self._run([network], [given])[0], None
        if sum(map(len, groups)) != len(k):
            check_known(k, len(self))
        there = [(network, rows) for network, rows in zip(self, groups, strict=True) if len(rows)]
        padded = [_padded(rows) for _, rows in there]
        sizes = [len(rows) for rows in padded]
        everyone = torch.cat(padded)
        rows = everyone if image is None else image[everyone]
        inputs = zip(*(a.index_select(0, rows).split(sizes) for a in args), strict=True)
        outputs = self._run([network for network, _ in there], inputs)
        seats = torch.arange(len(everyone), device=k.device).split(sizes)
        taken = torch.cat([own[: len(rows)] for own, (_, rows) in zip(seats, there, strict=True)])
        return torch.cat(outputs), taken[torch.cat(groups).argsort()]

    def _by_all(self, k: Tensor, *args: Tensor) -> Tensor:
        """The same as :meth:`of_looks`, where all networks look at all images."""
        everyone = torch.stack(self._each(lambda e: args), 1)
        rows = torch.arange(k.shape[0], device=k.device)
        return at_least_float32(everyone[rows[:, None], k])

    def _in_room(self, k: Tensor, size: int, *args: Tensor) -> Tensor:
        """The same as :meth:`of_looks`, in shapes that do not depend on k.

        Args:
            k: ``(B, N)`` int64; where a network has more than ``size`` images, what comes out for
                those without a seat is of no use.
            size: room of each network.
            *args: inputs, each ``(B, ...)``.
        """
        image, where = _seats(k, size, len(self))
        given = [a.index_select(0, image).split(size) for a in args]
        outputs = self._each(lambda e: [a[e] for a in given])
        found = torch.cat(outputs).index_select(0, where)
        return at_least_float32(found).unflatten(0, k.shape)

    @torch.no_grad()
    @partial(fused, ensemble=True)
    def of_all(self, *args: Tensor) -> Tensor:
        """Output of every network, in float32 or better, without gradients.

        Args:
            *args: inputs, each ``(B, K, ...)``, of each network its own.

        Returns:
            ``(B, K, ...)``.
        """
        outputs = self._each(lambda e: [a[:, e] for a in args])
        return at_least_float32(torch.stack(outputs, 1))

    def _each(self, inputs: Callable[[int], Sequence[Tensor]]) -> list[Tensor]:
        """Outputs of all networks: side by side where a CUDA graph is captured."""
        if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            return self._run(list(self), map(inputs, range(len(self))))
        main = torch.cuda.current_stream()
        outputs = []
        for e, stream in enumerate(_streams(len(self))):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                outputs += self._run([self[e]], [inputs(e)])
        for stream in _streams(len(self)):
            main.wait_stream(stream)
        return outputs

    def _run(
        self, networks: Sequence[nn.Module], inputs: Iterable[Sequence[Tensor]]
    ) -> list[Tensor]:
        """Output of each, on as many cores as there are for it."""
        if self._prepare:
            pairs = zip(inputs, self._prepare(networks), strict=True)
            inputs = [(*own, further) for own, further in pairs]
        if compiles():
            return [run(network, *own) for network, own in zip(networks, inputs, strict=True)]
        return side_by_side.run(networks, list(inputs))


def _padded(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows[:1].expand(-len(rows) % GROUP)]) if len(rows) % GROUP else rows


@partial(fused, dynamic=True)
def _seats(k: Tensor, size: int, experts: int) -> tuple[Tensor, Tensor]:
    """Images in the room of each network, one network's after the other's, and where k's are.

    Args:
        k: networks that look at each image, ``(B, N)``.
        size: room of each.
        experts: their number K.

    Returns:
        Index of an image for each seat, ``(K size,)``, and of a seat for each of k, ``(B N,)``.
    """
    numbers = torch.arange(experts, device=k.device)
    own = (k[:, :, None] == numbers).any(1)  # (B, K)
    before = own.T.contiguous().cumsum(1).T - 1  # along memory, which is quicker
    seat = torch.where(own & (before < size), size * numbers + before, size * experts)
    image = k.new_zeros(size * experts + 1)  # the last is for pairs that nobody wants
    rows = torch.arange(k.shape[0], device=k.device)[:, None].expand_as(seat)
    image = image.scatter(0, seat.flatten(), rows.flatten())
    return image[:-1], seat.gather(1, k).flatten().clamp_max(size * experts - 1)


@cache
def _streams(n: int) -> list[torch.cuda.Stream]:
    """One stream for each expert, the same for its encoder, decoder and attention."""
    return [torch.cuda.Stream() for _ in range(n)]
