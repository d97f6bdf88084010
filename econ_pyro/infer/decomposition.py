r"""Images taken apart: winners, regions, appearances and shapes of their layers.

The layer axis runs front to back, as everywhere (:mod:`econ_pyro.core.sites`). Index i of it holds
the paper's inference step t' = i + 1 (Fig. 4); the last index is the background in a scene that
was explained well.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from econ_pyro.core.compositing import compose
from econ_pyro.errors import EconError

if TYPE_CHECKING:
    from econ_pyro.infer.elbo import Terms

# beside terms
_LAYERED = ("k", "scope", "region", "mean", "shape", "z", "competition_losses", "seed_pixel")
_TENSORS = ("image", *_LAYERED)
_SHOWN = 6  # images, and layers of each, whose winners repr shows


@dataclass(frozen=True, repr=False)
class Decomposition:
    """B images taken apart, layer axis front to back."""

    image: Tensor
    """The images, ``(B, 3, H, W)`` in [0, 1]."""
    k: Tensor
    """Winning expert of each layer, ``(B, T)`` int64."""
    scope: Tensor
    """Scope s_t before the layer: what was left to explain, ``(B, T, 1, H, W)`` in [0, 1]."""
    region: Tensor
    """Soft region r_t, ``(B, T, 1, H, W)`` in [0, 1]; sums to 1 over layers."""
    mean: Tensor
    """Appearance mu, occluded parts included, ``(B, T, 3, H, W)``."""
    shape: Tensor
    """Probability m of the unoccluded shape, ``(B, T, 1, H, W)`` in [0, 1]."""
    z: Tensor
    """Latent properties, ``(B, T, L)``."""
    terms: Terms
    """L_x, L_z and L_r of each layer (Eqs. 10-12), each ``(B, T)`` in nats."""
    competition_losses: Tensor
    """Loss of every expert in the competition, ``(B, T, K)`` in nats; lower is better. K = 0 of a
    model without experts."""
    seed_pixel: Tensor
    """Pixel from which each region grew, an index into the flattened image, ``(B, T)`` int64; -1
    where there was none."""

    @property
    def reconstruction(self) -> Tensor:
        """Eq. 3: sum of r_t mu_t, ``(B, 3, H, W)``."""
        return compose(self.region, self.mean)

    @property
    def segmentation(self) -> Tensor:
        """Index of the layer with the largest region at each pixel, ``(B, H, W)`` int64."""
        return self.region.squeeze(2).argmax(dim=1)

    @property
    def completed(self) -> Tensor:
        """Posterior mean of each layer's whole mask, r_t + (1 - s_t) m_t, ``(B, T, 1, H, W)``.

        A pixel that is in the scope is seen to be of the layer or not; where others hide the
        layer, its shape is as drawn.
        """
        return self.region + (1 - self.scope) * self.shape

    @property
    def experts(self) -> int:
        """Number of experts K that competed; 0 of a model without experts."""
        return self.competition_losses.shape[-1]

    @property
    def area(self) -> Tensor:
        """Sum of each soft region, ``(B, T)`` in pixels."""
        return self.region.sum(dim=(2, 3, 4))

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        """One line: sizes, device, and which experts won, of as few images as fit."""
        images, slots = self.k.shape
        height, width = self.image.shape[-2:]
        kind = str(self.image.dtype).removeprefix("torch.")
        won = [" ".join(map(str, k)) for k in self.k[:_SHOWN, :_SHOWN].tolist()]
        winners = ", ".join(f"{k} ..." if slots > _SHOWN else k for k in won)
        text = f"Decomposition({images} images of {height} x {width} pixels, {slots} layers"
        if not self.experts:
            return f"{text}, {kind} on {self.image.device})"
        return (
            f"{text}, {self.experts} experts, {kind} on {self.image.device}; "
            f"winners front to back: {winners}{', ...' if images > _SHOWN else ''})"
        )

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Decomposition:
        """Some of the images; the batch axis stays, also for a single index.

        Args:
            index: of an image, also from the end; a slice; several indices, or a bool for each
                image.

        Raises:
            IndexError: there is no such image.
        """
        rows = self._rows(index)
        if isinstance(rows, slice):
            return self._map(lambda a: a[rows])
        return self._map(lambda a: a[rows.to(a.device)])

    def _rows(self, index: Any) -> slice | Tensor:
        if isinstance(index, slice):
            if index.step is None or operator.index(index.step) > 0:
                return index
            return torch.tensor(range(len(self))[index], dtype=torch.long)  # torch has no such
        if not isinstance(index, bool):
            try:
                index = operator.index(index)  # NumPy's integers, too
            except TypeError:
                return self._chosen(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} of a decomposition of {len(self)}")
            return slice(index, index + 1 or None)  # -1: to the end
        raise IndexError(f"an image by number, not {index}")

    def _chosen(self, index: Any) -> Tensor:
        try:
            rows = torch.as_tensor(index)
        except (TypeError, ValueError, RuntimeError):
            raise IndexError(f"images by number, not {index!r}") from None
        if rows.dtype == torch.bool and rows.shape == (len(self),):
            return rows
        if not rows.numel():
            return rows.flatten().long()
        if rows.ndim != 1 or rows.dtype in (torch.bool, torch.uint8) or rows.is_floating_point():
            kind = f"{rows.dtype} {tuple(rows.shape)}"
            raise IndexError(f"images by a list of numbers or a bool for each, not {kind}")
        if rows.min() < -len(self) or rows.max() >= len(self):
            raise IndexError(f"images {rows.tolist()} of a decomposition of {len(self)}")
        return rows.long()

    def cpu(self) -> Decomposition:
        """The same on the CPU, cut from any graph."""
        return self._map(lambda a: a.detach().cpu())

    def clone(self) -> Decomposition:
        """The same in memory of its own."""
        return self._map(torch.clone)

    def in_order(self, order: Tensor) -> Decomposition:
        """The layers of each image in another order, ``(B, T)``; scopes are as they were seen."""
        return self._map(lambda a: in_order(a, order), _LAYERED)

    def picked(self, rows: Tensor, layers: Tensor) -> Decomposition:
        """Scenes made of layers of any images, each with the image of its last layer.

        Args:
            rows: image of each layer, ``(n, T)`` int64.
            layers: index of each layer in its image, ``(n, T)`` int64.
        """
        chosen = self._map(lambda a: a[rows, layers], _LAYERED)
        return replace(chosen, image=self.image[rows[:, -1]])

    def where(self, chosen: Tensor, other: Decomposition) -> Decomposition:
        """These layers where ``chosen``, ``(B, T)``, and those of ``other`` else."""

        def pick(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(chosen.view(*chosen.shape, *[1] * (a.dim() - 2)), a, b)

        tensors = {name: pick(getattr(self, name), getattr(other, name)) for name in _LAYERED}
        terms = (pick(a, b) for a, b in zip(self.terms, other.terms, strict=True))
        return replace(self, **tensors, terms=type(self.terms)(*terms))

    @classmethod
    def cat(cls, parts: Sequence[Decomposition]) -> Decomposition:
        """Join batches that have equal T, K, L and image size.

        Raises:
            EconError: there is none, or some of these differ.
        """
        if not parts:
            raise EconError("at least one decomposition to join", "none")
        for name in _TENSORS:
            shapes = sorted({tuple(getattr(part, name).shape[1:]) for part in parts})
            if len(shapes) > 1:
                got = " and ".join(map(str, shapes))
                raise EconError(f"decompositions with one shape of {name}", got)
        terms = [part.terms for part in parts]
        return cls(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS},
            terms=type(terms[0])(*(torch.cat(term) for term in zip(*terms, strict=True))),
        )

    def _map(
        self, f: Callable[[Tensor], Tensor], names: Sequence[str] = _TENSORS
    ) -> Decomposition:
        tensors = {name: f(getattr(self, name)) for name in names}
        return replace(self, **tensors, terms=self.terms.map(f))


def in_order(a: Tensor, order: Tensor) -> Tensor:
    """Layers ``(B, T, ...)`` in an order of each image's own, ``(B, T)``."""
    rows = torch.arange(order.shape[0], device=order.device)  # len() would fix an export's batch
    return a[rows[:, None], order]
