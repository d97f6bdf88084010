"""What inference needs of a model and a guide, which come from outside, as in Pyro's own SVI."""

from __future__ import annotations

from typing import Protocol

from pyro.distributions import TorchDistribution
from torch import Tensor

from econ_pyro.core.distributions import PixelNoise
from econ_pyro.core.selection import Selection


class Model(Protocol):
    """P: :class:`econ_pyro.models.dead_leaves.DeadLeaves`."""

    num_experts: int
    latent_dim: int
    pixel_noise: PixelNoise

    def __call__(self, x: Tensor, k: Tensor) -> None:
        """The program of Eq. 8."""

    def decode(self, z_t: Tensor, k_t: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance and shape by each image's own expert."""

    def decode_all(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance and shape by every expert."""

    def latent_prior(self, *batch: int) -> TorchDistribution:
        """p(z)."""

    def region_prior(self, s_t: Tensor, shape: Tensor) -> TorchDistribution:
        """Eq. 7."""


class Guide(Protocol):
    """Q: :class:`econ_pyro.guides.amortized.AmortizedGuide`."""

    def __call__(self, x: Tensor, k: Tensor) -> None:
        """The program of Eq. 9 and the posteriors of the latents."""

    def given(self, selection: Selection) -> GivenGuide:
        """The program with what a competition has fixed."""

    def attend_all(self, x: Tensor, s_t: Tensor) -> Tensor:
        """The region that every expert proposes."""

    def encode_all(
        self, x: Tensor, r: Tensor, noise: Tensor, s: Tensor | None
    ) -> TorchDistribution:
        """q(z) by every expert, of its own region in a scope."""

    def encode(
        self, x: Tensor, r_t: Tensor, k_t: Tensor, noise: Tensor | None, s_t: Tensor | None
    ) -> TorchDistribution:
        """q(z) by each image's own expert."""


class SeededGuide(Guide, Protocol):
    """A guide whose regions grow from seed pixels, as the joint competition needs it."""

    def candidates(self, x: Tensor, s_t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Seed pixels of n layers, and the region that every expert grows from each."""

    def pixel_features(self, x: Tensor) -> Tensor:
        """Features by which regions grow, of each pixel."""


class GivenGuide(Protocol):
    """A program of ``(x, k)`` with what a competition has fixed, and its parts."""

    def __call__(self, x: Tensor, k: Tensor) -> None:
        """The program."""

    def regions(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Scope and region of every layer (Eqs. 9 and 14)."""

    def posteriors(self, x: Tensor, r: Tensor, k: Tensor) -> TorchDistribution:
        """q(z) of all layers, one batch."""
