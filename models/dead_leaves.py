r"""The layered generative model p, as two Pyro programs that share K decoders.

The prior program is the box of section 2, back to front:

.. math:: k_t \sim Cat, \; z_t \sim N(0, I), \; m_t \sim Bern(m_{k_t}(z_t)), \;
          x_t \sim N(\mu_{k_t}(z_t), \sigma^2), \; x \leftarrow m_t x_t + (1 - m_t) x

The class-conditional joint (Eq. 8) is written in terms of what is visible, front to back, because
a region depends on the nearer ones through the scope:

.. math:: p(x, r, z | k) = p(x | r, z, k) \prod_t p(r_t | s_t, z_t, k_t) \, p(z_t), \quad
          p(r_t | s_t, z_t, k_t) = Bern(s_t m_{k_t}(z_t))
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import pyro
import torch
from pyro.distributions import Bernoulli, Categorical, Normal, TorchDistribution
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.config import ModelConfig
from econ_pyro.core import sites
from econ_pyro.core.compositing import next_scope, paint, region
from econ_pyro.core.distributions import LayeredNormal, MeanBernoulli
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.handlers import APPEARANCE, SHAPE, noise
from econ_pyro.core.parameters import program
from econ_pyro.core.tensors import check_experts, fitted
from econ_pyro.core.user_images import program_images
from econ_pyro.errors import EconError
from econ_pyro.models.decoder import SpatialBroadcastDecoder, draw_shapes


class Decoded(NamedTuple):
    """What a decoder says of a layer: Eqs. 4 and 5."""

    mean: Tensor
    """Appearance mu, ``(B, 3, H, W)`` in [0, 1]."""
    shape: Tensor
    """Shape probability m, ``(B, 1, H, W)`` in [0, 1]."""


class Canvas(NamedTuple):
    """A scene that the prior program painted; layer axis front to back."""

    image: Tensor
    """``(B, 3, H, W)``; pixel noise may leave [0, 1]."""
    k: Tensor
    """Expert of each layer, ``(B, T)``."""
    shape: Tensor
    """Binary unoccluded shapes, ``(B, T, 1, H, W)``."""
    appearance: Tensor
    """``(B, T, 3, H, W)``."""
    z: Tensor
    """``(B, T, L)``."""


class DeadLeaves(nn.Module):
    """K decoders, and the programs that paint with them.

    Args:
        config: number of experts and layers, sizes, sigma.

    Attributes:
        flat: whether a layer's appearance is one colour, the mean of what its decoder draws.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        make = partial(SpatialBroadcastDecoder, config.expert, config.size)
        apart = (draw_shapes, ["shape"]) if config.expert.one_shape else ()
        self.decoders = Ensemble(make, config.experts, *apart)
        # p(k_t), back to front; training sets it to the share of steps that each expert won
        even = torch.full((config.steps, config.experts), 1 / config.experts)
        self.register_buffer("class_probs", even)
        self.flat = False
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self.class_probs: Tensor
        self._zero: Tensor

    def decode(self, z_t: Tensor, k_t: Tensor) -> Decoded:
        """Eqs. 4 and 5: appearance and shape by each image's own expert.

        Args:
            z_t: latents, ``(B, L)``.
            k_t: experts, ``(B,)``.

        Raises:
            EconError: shapes do not fit, or there is no such expert.
        """
        scenes = z_t.shape[0]  # len() would fix the batch of an export
        z_t = fitted("z", z_t, (scenes, self.config.expert.latent), self._zero)
        check_experts("k", k_t, (scenes,), self.config.experts, self._zero)
        return self._decoded(self.decoders.of_winners(k_t, z_t))

    def decode_all(self, z: Tensor) -> Decoded:
        """The same by every expert, without gradients: ``(B, K, 3, H, W)``, ``(B, K, 1, H, W)``.

        Args:
            z: latents, ``(B, K, L)``.

        Raises:
            EconError: their shape does not fit.
        """
        shape = (z.shape[0], self.config.experts, self.config.expert.latent)
        return self._decoded(self.decoders.of_all(fitted("z", z, shape, self._zero)))

    def latent_prior(self, *batch: int) -> TorchDistribution:
        """p(z_t) = N(0, I) of the batch shape, event ``(L,)``."""
        zero = self._zero.expand(*batch, self.config.expert.latent)
        return Normal(zero, torch.ones_like(zero)).to_event(1)

    def region_prior(self, s_t: Tensor, shape: Tensor) -> TorchDistribution:
        """Eq. 7: region given scope and decoded shape, event ``(1, H, W)``."""
        return MeanBernoulli(region(s_t, shape)).to_event(3)

    def forward(
        self,
        x: Tensor,
        k: Tensor,
        noise: Tensor | None = None,
        regions: Tensor | None = None,
        seeds: Tensor | None = None,
        occluders: Tensor | None = None,
    ) -> None:
        """Eq. 8 as a program: sites ``z_t`` and ``r_t`` for t = T..1, then the observed ``x``.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            k: expert of each layer, front to back, ``(B, T)``.
            noise: unused; model and guide take the same arguments.
            regions: unused, likewise.
            seeds: unused, likewise.
            occluders: unused, likewise.

        Raises:
            EconError: images or experts of another shape or type, or no such expert.
        """
        x = program_images(x, self.config.size, self._zero)
        scenes, steps = len(x), arguments.num_layers(k)
        check_experts("k", k, (scenes, steps), self.config.experts, self._zero)
        s_t, regions_, means = torch.ones_like(x[:, :1]), [], []
        with program(decoder=self.decoders), pyro.plate(sites.SCENES, scenes):
            for i, t in enumerate(sites.front_to_back(steps)):
                z_t = pyro.sample(sites.z(t), self.latent_prior(scenes))
                z_t = self._site(sites.z(t), z_t, scenes, self.config.expert.latent)
                mean, shape = self.decode(z_t, k[:, i])
                r_t = pyro.sample(sites.r(t), self.region_prior(s_t, shape))
                r_t = self._site(sites.r(t), r_t, *s_t.shape)
                s_t = next_scope(s_t, r_t)
                regions_.append(r_t)
                means.append(mean)
            likelihood = LayeredNormal(
                torch.stack(regions_, 1), torch.stack(means, 1), self.config.sigma_x
            )
            pyro.sample(sites.IMAGE, likelihood, obs=x)

    def prior(self, scenes: int = 1, k: Tensor | None = None, steps: int | None = None) -> Canvas:
        """Section 2 as a program: sites ``k_t, z_t, m_t, x_t`` for t = 1..T, back to front.

        The first layer fills the canvas (footnote 2). Classes can be given here, or clamped with
        ``poutine.condition(model.prior, data={"k_1": ...})``. The painted scenes are a
        deterministic site, ``image``: ``Predictive(model.prior, num_samples=3,
        return_sites=("image",))(8)``.

        Args:
            scenes: number of scenes B.
            k: expert of each layer, front to back, ``(B, T)``; drawn if not given.
            steps: number of layers; the model's T, or that of ``k``, if not given.

        Returns:
            The painted scenes and their layers.

        Raises:
            EconError: a number makes no sense, shapes do not fit, or there is no such expert.
        """
        scenes = arguments.as_int("scenes", scenes)
        steps = self._steps(scenes, k, steps)
        size, sigma = self.config.size, self.config.sigma_x
        of_shape, of_appearance = (scenes, 1, size, size), (scenes, 3, size, size)
        canvas = self._zero.expand(of_appearance)
        layers = []
        with program(decoder=self.decoders), pyro.plate(sites.SCENES, scenes):
            for t in sites.back_to_front(steps):
                # above the layers that were trained, the nearest one's classes
                probs = self.class_probs[min(t, len(self.class_probs)) - 1]
                given = None if k is None else k[:, steps - t]
                k_t = pyro.sample(sites.k(t), Categorical(probs).expand((scenes,)), obs=given)
                check_experts(sites.k(t), k_t, (scenes,), self.config.experts, self._zero)
                z_t = pyro.sample(sites.z(t), self.latent_prior(scenes))
                z_t = self._site(sites.z(t), z_t, scenes, self.config.expert.latent)
                mean, shape = self.decode(z_t, k_t)
                if t == 1:
                    shape = torch.ones_like(shape)
                coins = Bernoulli(shape).to_event(3)
                m_t = pyro.sample(sites.m(t), coins, infer=noise(SHAPE))
                m_t = self._site(sites.m(t), m_t, *of_shape)
                pixels = Normal(mean, sigma).to_event(3)
                x_t = pyro.sample(sites.x(t), pixels, infer=noise(APPEARANCE))
                x_t = self._site(sites.x(t), x_t, *of_appearance)
                canvas = paint(canvas, m_t, x_t)
                layers.append((k_t, m_t, x_t, z_t))
            pyro.deterministic(sites.COMPOSED, canvas, event_dim=3)
        k_, m, x, z = (torch.stack(part[::-1], 1) for part in zip(*layers, strict=True))
        return Canvas(canvas, k_, m, x, z)

    def _steps(self, scenes: int, k: Tensor | None, steps: int | None) -> int:
        """Number of layers that the prior is to paint."""
        if steps is not None:
            steps = arguments.as_int("steps", steps, maximum=arguments.MAX_LAYERS)
        if k is None:
            return steps or self.config.steps
        given = arguments.num_layers(k)
        if steps not in (None, given):
            raise EconError(f"{given} for steps, the layers of k", str(steps), "give one of them")
        check_experts("k", k, (scenes, given), self.config.experts, self._zero)
        return given

    def _site(self, name: str, value: Tensor, *shape: int) -> Tensor:
        """A site's value as handlers left it: conditioned, replayed or drawn."""
        return fitted(name, value, shape, self._zero)

    def _decoded(self, drawn: Tensor) -> Decoded:
        mean, shape = drawn.split([3, 1], dim=-3)
        if self.flat:
            mean = mean.mean((-2, -1), keepdim=True).expand_as(mean)
        return Decoded(mean, shape)
