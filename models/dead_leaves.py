r"""The layered generative model p, as two Pyro programs that share K decoders.

The prior program is the box of section 2, back to front:

.. math:: k_t \sim Cat, \; z_t \sim N(0, I), \; m_t \sim Bern(m_{k_t}(z_t)), \;
          x_t \sim N(\mu_{k_t}(z_t), \sigma^2), \; x \leftarrow m_t x_t + (1 - m_t) x

The class-conditional joint (Eq. 8) is written in terms of what is visible, front to back, because
a region depends on the nearer ones through the scope:

.. math:: p(x, r, z | k) = p(x | r, z, k) \prod_t p(r_t | s_t, z_t, k_t) \, p(z_t), \quad
          p(r_t | s_t, z_t, k_t) = Bern(s_t m_{k_t}(z_t))

Both accept batch dimensions to the left of their own (:mod:`econ_pyro.core.batch_shapes`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import Bernoulli, Categorical, Normal, TorchDistribution
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.core import sites
from econ_pyro.core.batch_shapes import batch_of, flat, restored, stacked
from econ_pyro.core.compositing import next_scope, paint, region
from econ_pyro.core.distributions import LayeredNormal, MeanBernoulli, PixelNoise
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.handlers import APPEARANCE, SHAPE, noise
from econ_pyro.core.input_images import program_images, program_mask
from econ_pyro.core.parameters import program
from econ_pyro.core.tensors import check_expert_sites, site_value
from econ_pyro.errors import EconError
from econ_pyro.model_config import EconConfig, FreeLatents
from econ_pyro.models.decoder import SpatialBroadcastDecoder
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder, draw_shapes
from econ_pyro.models.pose_search import fitting_directions, fitting_poses


class Decoded(NamedTuple):
    """What a decoder says of a layer: Eqs. 4 and 5."""

    mean: Tensor
    """Appearance mu, ``(..., 3, H, W)`` in [0, 1]."""
    shape: Tensor
    """Shape probability m, ``(..., 1, H, W)`` in [0, 1]."""


class Canvas(NamedTuple):
    """Scenes that the prior program painted; layer axis front to back.

    Handlers may have put further batch dimensions to the left of B.
    """

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
        num_experts: K.
        num_slots: number of layers T of the prior.
        latent_dim: dimensions L of a latent.
        pixel_noise: noise of the pixels.
        constant_colour: whether a layer's appearance is one colour, the mean of what its decoder
            draws (a warm-up of training).
    """

    def __init__(self, config: EconConfig) -> None:
        super().__init__()
        self.config = config
        self.num_experts, self.num_slots = config.num_experts, config.num_slots
        self.latent_dim = config.expert.latents.dim
        self.pixel_noise = PixelNoise(config.sigma_x, config.light)
        self.decoders = _decoders(config)
        # p(k_t), back to front; training sets it to the share of layers that each expert won
        even = torch.full((config.num_slots, config.num_experts), 1 / config.num_experts)
        self.register_buffer("class_probs", even)
        self.constant_colour = False
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self.class_probs: Tensor
        self._zero: Tensor

    def decode(self, z_t: Tensor, k_t: Tensor) -> Decoded:
        """Eqs. 4 and 5: appearance and shape by each image's own expert.

        Args:
            z_t: latents, ``(..., B, L)``.
            k_t: experts, ``(..., B)``.

        Returns:
            ``(..., B, 3, H, W)`` and ``(..., B, 1, H, W)``.

        Raises:
            EconError: shapes do not fit, or there is no such expert.
        """
        scenes = z_t.shape[-2] if z_t.dim() > 1 else 1  # len() would fix the batch of an export
        z_t = site_value("z", z_t, scenes, (self.latent_dim,), self._zero)
        check_expert_sites("k", k_t, scenes, self.num_experts, self._zero)
        batch = batch_of((z_t, 1), (k_t, 0))
        drawn = self.decoders.forward_selected(flat(k_t, batch, 0), flat(z_t, batch, 1))
        return self._decoded(restored(drawn, batch))

    def decode_all(self, z: Tensor) -> Decoded:
        """Eqs. 4 and 5 by every expert, without gradients.

        Args:
            z: latents, ``(B, K, L)``.

        Returns:
            ``(B, K, 3, H, W)`` and ``(B, K, 1, H, W)``.

        Raises:
            EconError: their shape does not fit.
        """
        z = site_value("z", z, z.shape[0], (self.num_experts, self.latent_dim), self._zero)
        return self._decoded(self.decoders.forward_all(z))

    def fitting_directions(self, z: Tensor, k: Tensor, r: Tensor, s: Tensor) -> Tensor:
        """Directions in which the experts' shapes fit regions best, ``(n, 2)``.

        Args:
            z: latents, ``(n, L)``.
            k: experts, ``(n,)``.
            r: regions, ``(n, 1, H, W)``.
            s: scopes, ``(n, 1, H, W)``.
        """
        decoders: Any = list(self.decoders)
        return fitting_directions(decoders, z, k, r, s)

    def fitting_poses(self, z: Tensor, k: Tensor, r: Tensor, s: Tensor) -> Tensor:
        """Latents of poses at which the experts' shapes fit regions best, ``(n, P)``.

        Arguments as of :meth:`fitting_directions`; the search starts at these latents.
        """
        decoders: Any = list(self.decoders)
        return fitting_poses(decoders, z, k, r, s)

    def latent_prior(self, *batch: int) -> TorchDistribution:
        """p(z_t) = N(0, I) of the batch shape, event ``(L,)``."""
        zero = self._zero.expand(*batch, self.latent_dim)
        return Normal(zero, torch.ones_like(zero)).to_event(1)

    def region_prior(self, s_t: Tensor, shape: Tensor) -> TorchDistribution:
        """Eq. 7: region given scope and decoded shape, event ``(1, H, W)``."""
        return MeanBernoulli(region(s_t, shape)).to_event(3)

    def forward(self, x: Tensor, k: Tensor) -> None:
        """Eq. 8 as a program: sites ``z_t`` and ``r_t`` for t = T..1, then the observed ``x``.

        Args:
            x: images, ``(..., B, 3, H, W)`` in [0, 1].
            k: expert of each layer, front to back, ``(..., B, T)``.

        Raises:
            EconError: shapes or types do not fit, a mask is not in [0, 1], or there is no such
                expert.
        """
        x = program_images(x, self.config.size, self._zero)
        scenes, slots, size = x.shape[-4], arguments.num_layers(k), self.config.size
        check_expert_sites("k", k, scenes, self.num_experts, self._zero, slots)
        s_t, regions, means = torch.ones_like(x[..., :1, :, :]), [], []
        with program(decoder=self.decoders), pyro.plate(sites.SCENES, scenes):
            for i, t in enumerate(sites.front_to_back(slots)):
                z_t = pyro.sample(sites.z(t), self.latent_prior(scenes))
                z_t = site_value(sites.z(t), z_t, scenes, (self.latent_dim,), self._zero)
                mean, shape = self.decode(z_t, k[..., i])
                r_t = pyro.sample(sites.r(t), self.region_prior(s_t, shape))
                r_t = program_mask(sites.r(t), r_t, scenes, size, self._zero)
                s_t = next_scope(s_t, r_t)
                regions.append(r_t)
                means.append(mean)
            likelihood = LayeredNormal(stacked(regions, 3), stacked(means, 3), self.pixel_noise)
            pyro.sample(sites.IMAGE, likelihood, obs=x)

    def prior(self, scenes: int = 1, k: Tensor | None = None, slots: int | None = None) -> Canvas:
        """Section 2 as a program: sites ``k_t, z_t, m_t, x_t`` for t = 1..T, back to front.

        The first layer fills the canvas (footnote 2). Classes can be given here, or clamped with
        ``poutine.condition(model.prior, data={"k_1": ...})``. The painted scenes are a
        deterministic site, ``image``: ``Predictive(model.prior, num_samples=3,
        return_sites=("image",))(8)``.

        Args:
            scenes: number of scenes B.
            k: expert of each layer, front to back, ``(B, T)``; drawn if not given.
            slots: number of layers; the model's T, or that of ``k``, if not given.

        Returns:
            The painted scenes and their layers.

        Raises:
            EconError: a number makes no sense, shapes do not fit, or there is no such expert.
        """
        scenes = arguments.as_int("scenes", scenes)
        slots = self._slots(scenes, k, slots)
        size, zero = self.config.size, self._zero
        canvas = zero.expand(scenes, 3, size, size)
        layers = []
        with program(decoder=self.decoders), pyro.plate(sites.SCENES, scenes):
            for t in sites.back_to_front(slots):
                # above the layers that were trained, the nearest one's classes
                probs = self.class_probs[min(t, len(self.class_probs)) - 1]
                given = None if k is None else k[:, slots - t]
                k_t = pyro.sample(sites.k(t), Categorical(probs).expand((scenes,)), obs=given)
                check_expert_sites(sites.k(t), k_t, scenes, self.num_experts, zero)
                z_t = pyro.sample(sites.z(t), self.latent_prior(scenes))
                z_t = site_value(sites.z(t), z_t, scenes, (self.latent_dim,), zero)
                mean, shape = self.decode(z_t, k_t)
                if t == 1:
                    shape = torch.ones_like(shape)
                coins = Bernoulli(shape).to_event(3)
                m_t = pyro.sample(sites.m(t), coins, infer=noise(SHAPE))
                m_t = program_mask(sites.m(t), m_t, scenes, size, zero)
                pixels = self._pixels(mean)
                x_t = pyro.sample(sites.x(t), pixels, infer=noise(APPEARANCE))
                x_t = site_value(sites.x(t), x_t, scenes, (3, size, size), zero)
                canvas = paint(canvas, m_t, x_t)
                layers.append((k_t, m_t, x_t, z_t))
            pyro.deterministic(sites.COMPOSED, canvas, event_dim=3)
        front_to_back = [part[::-1] for part in zip(*layers, strict=True)]
        k_, m, x, z = map(stacked, front_to_back, (0, 3, 3, 1))
        return Canvas(canvas, k_, m, x, z)

    def _slots(self, scenes: int, k: Tensor | None, slots: int | None) -> int:
        """Number of layers that the prior is to paint."""
        if slots is not None:
            slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        if k is None:
            return slots or self.num_slots
        given = arguments.num_layers(k)
        if slots not in (None, given):
            raise EconError(f"{given} for slots, the layers of k", str(slots), "give one of them")
        check_expert_sites("k", k, scenes, self.num_experts, self._zero, given)
        return given

    def _pixels(self, mean: Tensor) -> TorchDistribution:
        """Eq. 5, event ``(3, H, W)``."""
        if not self.pixel_noise.light:
            return Normal(mean, self.pixel_noise.sigma).to_event(3)
        everywhere = torch.ones_like(mean[..., None, :1, :, :])
        return LayeredNormal(everywhere, mean[..., None, :, :, :], self.pixel_noise)

    def _decoded(self, drawn: Tensor) -> Decoded:
        mean, shape = drawn.split([3, 1], dim=-3)
        if self.constant_colour:
            mean = mean.mean((-2, -1), keepdim=True).expand_as(mean)
        return Decoded(mean, shape)


def _decoders(config: EconConfig) -> Ensemble:
    """K decoders of the kind that the latents ask for."""
    sizes = (config.expert, config.size)
    latents = config.expert.latents
    if isinstance(latents, FreeLatents):
        return Ensemble(partial(SpatialBroadcastDecoder, *sizes), config.num_experts)
    shared = draw_shapes if latents.one_shape else None
    return Ensemble(partial(ObjectCentredDecoder, *sizes), config.num_experts, shared)
