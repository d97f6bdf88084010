r"""The posterior q of GENESIS-V2 (Engelcke et al., 2021), as a Pyro program.

A U-Net gives each pixel features phi and an embedding e, to which its position is added. A slot
grows from a seed pixel, drawn at random among what earlier slots left, over like embeddings:

.. math:: \alpha_{t,i} = \exp(-\|e_i - e_{seed_t}\|^2 / \nu), \quad m_t = s_t \alpha_t, \quad
          s_{t-1} = s_t (1 - \alpha_t), \quad m_1 = s_1

.. math:: q(z_t | x) = N(f(\sum_i m_{t,i} \phi_i / \sum_i m_{t,i}))

where phi ends with the pixel's colour and position. These masks only pool: those that make the
image are decoded from the latents. It is the learnt cousin of this project's regions, which grow
from seed pixels over like colours.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro.distributions import Uniform
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.compile import run
from econ_pyro.core import sites
from econ_pyro.core.compositing import with_log
from econ_pyro.core.input_images import program_images
from econ_pyro.core.parameters import program
from econ_pyro.core.pose import coordinates
from econ_pyro.guides.amortized import posterior, start_informative
from econ_pyro.guides.attention import AttentionUNet
from econ_pyro.model_config import ExpertConfig, GenesisV2Config

GROUPS = 8
FIRST_GAIN = 8.0  # means of slots then differ by about 1
OWN = 5  # of a pixel, beside its features: colour and position
LEAST_SHARE = 0.01  # of the scope, and of what a slot leaves of it: later slots see every pixel


def group_norm(channels: int) -> nn.Module:
    """Group normalisation and ReLU: what it leaves of an image's mean, slots can still pool."""
    groups = GROUPS if channels % GROUPS == 0 else 1
    return nn.Sequential(nn.GroupNorm(groups, channels), nn.ReLU(inplace=True))


class FeatureUNet(AttentionUNet):
    """ECON's attention network, whose output is each pixel's features, ``(n, F, H, W)``."""

    def __init__(self, config: ExpertConfig, size: int) -> None:
        super().__init__(config, size, group_norm)

    def _make_head(self, config: ExpertConfig, channels: int, patch: int) -> None:
        self.head = nn.Conv2d(channels, config.features, 1)


class SlotEncoder(nn.Module):
    """Pooled features to the parameters of q(z_t).

    Args:
        config: sizes.
    """

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__()
        pooled = config.features + OWN
        self.layers = nn.Sequential(
            nn.LayerNorm(pooled),
            nn.Linear(pooled, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, 2 * config.latent_dim),
        )
        if config.informative:
            last = self.layers[-1]
            assert isinstance(last, nn.Linear)
            start_informative(last, FIRST_GAIN)

    def forward(self, pooled: Tensor) -> Tensor:
        """Means and log variances, ``(n, 2 L)``, of what a slot pooled, ``(n, F + 5)``."""
        return at_least_float32(self.layers(pooled))


class Embedding(nn.Module):
    """Features to embeddings, semi-convolutional: the first two dimensions get the position.

    The learnt part is gated, and the gate is closed at first: of random features, slots would take
    single pixels. The next three dimensions get the colour, times ``colour_weight``.

    Args:
        config: sizes.
    """

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__()
        self.head = nn.Conv2d(config.features, config.embedding_dim, 1)
        self.gate = nn.Parameter(torch.zeros(()))
        # so that at first a slot takes half at a distance that divides the image into T
        width = 2 * math.log(config.spread) - math.log(config.num_slots * math.log(2))
        self.log_width = nn.Parameter(torch.tensor(width))
        colours = torch.zeros(config.embedding_dim, 3)
        colours[2:5] = config.colour_weight * torch.eye(3)[: config.embedding_dim - 2]
        self.colours = nn.Parameter(colours)
        grid = coordinates(config.size)
        rest = torch.zeros(1, config.embedding_dim - 2, config.size, config.size)
        self.register_buffer("position", torch.cat([grid, rest], 1), persistent=False)
        self.position: Tensor

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Embeddings ``(n, E, H, W)``, in float32 or better.

        Args:
            x: images, ``(n, 3, H, W)``.
            features: of each pixel, ``(n, F, H, W)``.
        """
        learnt = self.gate * at_least_float32(self.head(features))
        return learnt + self.position + torch.einsum("ec,nchw->nehw", self.colours, x)


def grow(embedding: Tensor, seed: Tensor, width: Tensor) -> Tensor:
    """Share of the scope that grows from each image's seed pixel, ``(B, 1, H, W)``.

    Args:
        embedding: ``(B, E, H, W)``.
        seed: index into the flattened image, ``(B,)``.
        width: of the kernel, a scalar.
    """
    flat = embedding.flatten(2)
    chosen = flat.gather(2, seed[:, None, None].expand(-1, flat.shape[1], 1))  # (B, E, 1)
    distance = (flat - chosen).square().sum(1, keepdim=True).unflatten(2, embedding.shape[2:])
    return (-distance / width).exp().clamp(LEAST_SHARE, 1 - LEAST_SHARE)


class GenesisV2Guide(nn.Module):
    """A U-Net, an embedding and an encoder for all slots, and the program that uses them.

    Args:
        config: number of slots, sizes.
    """

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__()
        self.config = config
        self.feature_networks = nn.ModuleList([FeatureUNet(config.networks, config.size)])
        self.embeddings = nn.ModuleList([Embedding(config)])
        self.encoders = nn.ModuleList([SlotEncoder(config)])
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self._zero: Tensor

    def masks(self, x: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        """Masks that grow from seed pixels, ``(B, T, 1, H, W)``; they sum to 1 over slots.

        A seed is where the noise times the scope is largest.

        Args:
            x: images, ``(B, 3, H, W)``.
            features: of each pixel, ``(B, F, H, W)``.
            noise: of the first T - 1 slots, ``(B, T - 1, 1, H, W)`` in [0, 1].
        """
        embedding = self.embeddings[0]
        assert isinstance(embedding, Embedding)
        e, width = embedding(x, features), embedding.log_width.exp()
        s, found = torch.ones_like(e[:, :1]), []
        for one in noise.unbind(1):
            seed = (one * s.detach()).flatten(1).argmax(1)
            alpha = grow(e, seed, width)
            found.append(s * alpha)
            s = s * (1 - alpha)
        return torch.stack([*found, s], 1)

    def encode(self, x: Tensor, features: Tensor, m: Tensor) -> Tensor:
        """Means and log variances of the latents, ``(B, T, 2 L)``.

        Args:
            x: images, ``(B, 3, H, W)``.
            features: of each pixel, ``(B, F, H, W)``.
            m: masks, ``(B, T, 1, H, W)``.
        """
        embedding = self.embeddings[0]
        assert isinstance(embedding, Embedding)
        place = embedding.position[:, :2].expand(len(x), -1, -1, -1)
        weight = m.flatten(2)
        weight = weight / weight.sum(2, keepdim=True).clamp_min(1e-5)
        seen = torch.cat([at_least_float32(features), x, place], 1)
        pooled = weight @ seen.flatten(2).mT  # (B, T, F + 5)
        return self.encoders[0](pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])

    def forward(self, x: Tensor, slots: int | None = None, mean: bool = False) -> None:
        """The program: sites ``seed_noise_t`` for t = T..2, which the model lacks, then ``z_t``.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            slots: number of slots T; the configuration's if not given.
            mean: latents are their means instead of samples, and seeds are always the same.

        Raises:
            EconError: the images have another shape or type, or the number makes no sense.
        """
        config = self.config
        slots = config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        x = program_images(x, config.size, self._zero)
        networks = program(
            feature_network=self.feature_networks,
            embedding=self.embeddings,
            encoder=self.encoders,
        )
        with networks, pyro.plate(sites.SCENES, len(x)):
            features = run(self.feature_networks[0], with_log(x, torch.ones_like(x[:, :1])))
            m = self.masks(x, features, self._noise(x, slots, mean))
            out = self.encode(x, features, m)
            for i, t in enumerate(sites.front_to_back(slots)):
                noise = self._zero if mean else None
                pyro.sample(sites.z(t), posterior(out[:, i], noise))

    def _noise(self, x: Tensor, slots: int, mean: bool) -> Tensor:
        """Noise of the seeds, ``(B, T - 1, 1, H, W)``."""
        event = (1, *x.shape[2:])
        if mean:  # the same whenever a decomposition is asked for
            generator = torch.Generator().manual_seed(0)
            fixed = torch.rand(slots - 1, *event, generator=generator)
            return fixed.to(x).expand(len(x), -1, -1, -1, -1)
        uniform = Uniform(self._zero, self._zero + 1).expand((len(x), *event)).to_event(3)
        options: Any = {"is_auxiliary": True}
        names = [sites.seed_noise(t) for t in sites.front_to_back(slots)][:-1]
        drawn = [pyro.sample(name, uniform, infer=options) for name in names]
        return torch.stack(drawn, 1) if drawn else x.new_zeros(len(x), 0, *event)
