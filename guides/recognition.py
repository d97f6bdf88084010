r"""The amortised posterior q, as a Pyro program over K attention nets and encoders.

.. math:: q(r, z | x, k) = \prod_t q(r_t | x, s_t, k_t) \, q(z_t | x, r_t, k_t)

front to back, with q(r_t) = Bern(s_t a_{k_t}(x, s_t)) (Eq. 9) and q(z_t) Gaussian. Regions are
replaced by their means (section 5.1). The last layer takes all that is left (footnote 7).
"""

from __future__ import annotations

from functools import partial

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.config import ModelConfig
from econ_pyro.core import sites
from econ_pyro.core.compositing import fixed_region, next_scope, region, with_log
from econ_pyro.core.distributions import FixedNoiseNormal, MeanBernoulli
from econ_pyro.core.ensemble import Ensemble
from econ_pyro.core.parameters import program
from econ_pyro.core.tensors import check_experts, check_seeds, fitted
from econ_pyro.core.user_images import program_images
from econ_pyro.guides.attention import AttentionUNet
from econ_pyro.guides.encoder import Encoder
from econ_pyro.guides.glimpse import Look
from econ_pyro.guides.region_growing import candidates, find_seed, grow, grow_all

LOG_SCALE_RANGE = (-7.0, 3.0)  # of q(z); outside, exp would meet the limits of float32 training


class Recognition(nn.Module):
    """K attention nets and encoders, and the program that explains an image with them.

    Args:
        config: number of experts and layers, sizes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.seeded = config, config.expert.seeded
        sizes = (config.expert, config.size)
        self.attentions = Ensemble(partial(AttentionUNet, *sizes), config.experts)
        self.look, self.encoders = Look(*sizes), Ensemble(partial(Encoder, *sizes), config.experts)

    def attend(self, x: Tensor, s_t: Tensor, k_t: Tensor, seed: Tensor | None = None) -> Tensor:
        """Eq. 9: the region that each image's own expert proposes.

        Args:
            x: images, ``(B, 3, H, W)``.
            s_t: scope, ``(B, 1, H, W)``.
            k_t: experts, ``(B,)``.
            seed: pixel that it grows from, with seeds, ``(B,)``; the most salient if not given.

        Returns:
            ``(B, 1, H, W)`` in [0, s_t].

        Raises:
            EconError: shapes do not fit, or there is no such expert or pixel.
        """
        x, s_t = self._images(x), self._masks("s_t", s_t, x.shape[0])
        self._check_experts(k_t, x.shape[0])
        if self.seeded and seed is not None:
            check_seeds("seed", seed, (x.shape[0],), self.config.size**2, x)
        logits = self.attentions.of_looks(k_t[:, None], self._given(x, s_t))[:, 0]
        if self.seeded:
            logits = grow(logits, find_seed(x, s_t) if seed is None else seed)
        return region(s_t, logits.sigmoid())

    def regions(self, x: Tensor, k: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """With seeds: scope and region of every layer, front to back (Eqs. 9 and 14).

        Attention that is told where to begin has no need of the scope, so that all layers are one
        batch, in which no expert looks at an image twice.

        Args:
            x: images, ``(B, 3, H, W)``.
            k: expert of each layer but the last, which takes what is left, ``(B, T - 1)``.
            seeds: pixel that each of these grows from, ``(B, T - 1)``.

        Returns:
            ``(B, T, 1, H, W)`` in [0, 1] each.

        Raises:
            EconError: shapes do not fit, or there is no such expert or pixel.
        """
        x = self._images(x)
        self._check_experts(k, x.shape[0], *k.shape[1:])
        check_seeds("seeds", seeds, tuple(k.shape), self.config.size**2, x)
        features = self.attentions.of_looks(k, self._given(x, torch.ones_like(x[:, :1])))
        return grow_all(features, seeds)

    def attend_all(self, x: Tensor, s_t: Tensor) -> Tensor:
        """The regions that all experts propose, without gradients, ``(B, K, 1, H, W)``."""
        x, s_t = self._images(x), self._masks("s_t", s_t, x.shape[0])
        if self.seeded:
            return self.candidates(x, s_t, 1)[1][:, 0]
        return region(s_t[:, None], self._features(x, s_t).sigmoid())

    def candidates(self, x: Tensor, s_t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """With seeds: the pixels of n things to take, and all experts' regions, no gradients.

        Args:
            x: images, ``(B, 3, H, W)``.
            s_t: scope, ``(B, 1, H, W)``.
            n: number of things.

        Returns:
            Seeds ``(B, n)`` and regions ``(B, n, K, 1, H, W)`` in [0, s_t].
        """
        x, s_t = self._images(x), self._masks("s_t", s_t, x.shape[0])
        with torch.no_grad():
            return candidates(self._features(x, s_t), x, s_t, n)

    def _features(self, x: Tensor, s_t: Tensor) -> Tensor:
        inputs = self._given(x, s_t)[:, None].expand(-1, self.config.experts, -1, -1, -1)
        return self.attentions.of_all(inputs)

    def _given(self, x: Tensor, s_t: Tensor) -> Tensor:
        """What attention sees: with seeds, which say where to look, a full scope."""
        return with_log(x, torch.ones_like(s_t) if self.seeded else s_t)

    def encode(
        self,
        x: Tensor,
        r_t: Tensor,
        k_t: Tensor,
        noise: Tensor | None = None,
        occluder: Tensor | None = None,
    ) -> TorchDistribution:
        """q(z_t | x, r_t, k_t) by each image's own expert, batch ``(B,)``, event ``(L,)``.

        Args:
            x: images, ``(B, 3, H, W)``.
            r_t: region, ``(B, 1, H, W)``.
            k_t: experts, ``(B,)``.
            noise: standard normal noise of the sample, ``(B, L)``; fresh if not given.
            occluder: what the encoder sees in front of it, ``(B, 4, H, W)``; nothing if not given
                (:mod:`econ_pyro.core.occlusion`).

        Raises:
            EconError: shapes do not fit, or there is no such expert.
        """
        x, r_t = self._images(x), self._masks("r_t", r_t, x.shape[0])
        self._check_experts(k_t, x.shape[0])
        if noise is not None and noise.dim():  # a single number is for all
            noise = self._floats("noise", noise, x.shape[0], self.config.expert.latent)
        if occluder is not None:
            occluder = self._floats("occluder", occluder, x.shape[0], 4, *x.shape[2:])
        seen = self.look(x, r_t, occluder)
        return _posterior(self.encoders.of_winners(k_t, *seen), noise)

    def encode_all(self, x: Tensor, r: Tensor, noise: Tensor) -> TorchDistribution:
        """The same by every expert of its own region, without gradients, batch ``(B, K)``.

        Args:
            x: images, ``(B, 3, H, W)``.
            r: regions, ``(B, K, 1, H, W)``.
            noise: of the samples, ``(B, L)``, shared by the experts.

        Raises:
            EconError: shapes do not fit.
        """
        x, r = self._images(x), self._masks("r", r, x.shape[0], self.config.experts)
        noise = self._floats("noise", noise, x.shape[0], self.config.expert.latent)
        seen = self.look.at_all(x, r)
        return _posterior(self.encoders.of_all(*seen), noise[:, None])

    def forward(
        self,
        x: Tensor,
        k: Tensor,
        noise: Tensor | None = None,
        regions: Tensor | None = None,
        seeds: Tensor | None = None,
        occluders: Tensor | None = None,
    ) -> None:
        """Q as a program: sites ``r_t`` and ``z_t`` for t = T..1.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            k: expert of each layer, front to back, ``(B, T)``.
            noise: standard normal noise of the latents, ``(B, T, L)``; fresh if not given.
            regions: true regions in place of attention, ``(B, T, 1, H, W)`` (Fig. 5).
            seeds: pixels that regions grow from, ``(B, T)``; the most salient if not given.
            occluders: what the encoder sees in front of each layer, ``(B, T, 4, H, W)``; nothing
                if not given (:mod:`econ_pyro.core.occlusion`).

        Raises:
            EconError: shapes or types do not fit, or there is no such expert or pixel.
        """
        x = program_images(x, self.config.size, self.look.grid)
        scenes, steps = len(x), arguments.num_layers(k)
        self._check_experts(k, scenes, steps)
        layered = (scenes, steps)
        if noise is not None:
            noise = self._floats("noise", noise, *layered, self.config.expert.latent)
        if regions is not None:
            regions = self._masks("regions", regions, *layered)
        if occluders is not None:
            occluders = self._floats("occluders", occluders, *layered, 4, *x.shape[2:])
        if self.seeded and seeds is not None:
            check_seeds("seeds", seeds, layered, self.config.size**2, x, rest=True)
        s_t = torch.ones_like(x[:, :1])
        networks = program(attention=self.attentions, encoder=self.encoders)
        with networks, pyro.plate(sites.SCENES, scenes):
            for i, t in enumerate(sites.front_to_back(steps)):
                k_t, probs = k[:, i], fixed_region(s_t, i, steps, regions)
                if probs is None:
                    seed = None if seeds is None else seeds[:, i]
                    probs = self.attend(x, s_t, k_t, seed)
                r_t = pyro.sample(sites.r(t), MeanBernoulli(probs).to_event(3))
                r_t = self._masks(sites.r(t), r_t, scenes)
                front = None if occluders is None else occluders[:, i]
                q_z = self.encode(x, r_t, k_t, None if noise is None else noise[:, i], front)
                pyro.sample(sites.z(t), q_z)
                s_t = next_scope(s_t, r_t)

    def _floats(self, name: str, value: Tensor, *shape: int) -> Tensor:
        return fitted(name, value, shape, self.look.grid)

    def _images(self, x: Tensor) -> Tensor:
        return self._floats("x", x, x.shape[0], 3, self.config.size, self.config.size)

    def _masks(self, name: str, value: Tensor, *batch: int) -> Tensor:
        return self._floats(name, value, *batch, 1, self.config.size, self.config.size)

    def _check_experts(self, k: Tensor, *shape: int) -> None:
        check_experts("k", k, shape, self.config.experts, self.look.grid)


def _posterior(out: Tensor, noise: Tensor | None) -> TorchDistribution:
    loc, log_variance = out.chunk(2, dim=-1)
    scale = (0.5 * log_variance).clamp(*LOG_SCALE_RANGE).exp()
    noise = torch.randn_like(loc) if noise is None else noise.expand_as(loc)
    return FixedNoiseNormal(loc, scale, noise).to_event(1)
