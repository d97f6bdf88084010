"""The recipe's guide: regions grow from seed pixels (:mod:`econ_pyro.guides.region_growing`)."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from econ_pyro.core.batch_shapes import restored
from econ_pyro.core.compositing import region, with_log
from econ_pyro.core.selection import Selection
from econ_pyro.core.tensors import check_seed_pixels
from econ_pyro.guides.amortized import AmortizedGuide
from econ_pyro.guides.attention import AttentionUNet
from econ_pyro.guides.pretrained_features import PretrainedFeatures
from econ_pyro.guides.region_growing import candidates, find_seed_pixel, grow, grow_all
from econ_pyro.model_config import EconConfig, ExpertConfig, SeededAttention

DARK = 0.02  # of white: pixels much darker are black, of no colour
SHARP = 2.0  # at first: regions leave one part in 3,000 of an object to others


class SeededUNet(AttentionUNet):
    """An attention network whose output is each pixel's features, from which regions grow."""

    def _make_head(self, config: ExpertConfig, channels: int, patch: int) -> None:
        attention = config.attention
        assert isinstance(attention, SeededAttention)
        self.colour_weight, self.chromaticity = attention.colour_weight, attention.chromaticity
        # only differences between features count, which no bias changes
        self.head = nn.Conv2d(channels, (3 + attention.learnt) * patch**2, 1, bias=False)
        with torch.no_grad():  # colour and position decide at first
            self.head.weight *= 0.03
        self.sharp = nn.Parameter(torch.tensor(SHARP))
        self.near = nn.Parameter(torch.tensor(attention.place_weight))

    def forward(self, x_and_log_s: Tensor) -> Tensor:
        """Sharpness g and features phi, ``(n, 1 + 3 + 2 + learnt, H, W)``.

        Args:
            x_and_log_s: image and log scope, ``(n, 4, H, W)``.
        """
        out, x = super().forward(x_and_log_s), x_and_log_s[:, :3]
        if self.chromaticity:
            x = chromaticity(x)
        sharp, colour = self.sharp.expand_as(x[:, :1]), self.colour_weight * (x + out[:, :3])
        return torch.cat([sharp, colour, positions(x, self.near), out[:, 3:]], 1)


class SeededGuide(AmortizedGuide):
    """A guide whose regions grow from seed pixels; its attention does not depend on the scope."""

    attention = SeededUNet

    def __init__(self, config: EconConfig) -> None:
        super().__init__(config)
        attention = config.expert.attention
        assert isinstance(attention, SeededAttention)
        self.pretrained = (
            PretrainedFeatures(attention, config.size) if attention.pretrained else None
        )

    def with_pretrained(self, features: Tensor, x: Tensor) -> Tensor:
        """Features of the attention, and those of the pretrained network if there is one.

        The one place where phi is put together. The network runs once for each image, whatever the
        number of experts.

        Args:
            features: of the attention, ``(B, ..., 1 + D, H, W)``: g, then phi.
            x: images, ``(B, 3, H, W)``.

        Returns:
            ``(B, ..., 1 + D', H, W)``.
        """
        if self.pretrained is None:
            return features
        more = self.pretrained(x)  # (B, D' - D, H, W)
        more = more[(slice(None), *[None] * (features.dim() - more.dim()))]
        return torch.cat([features, more.expand(*features.shape[:-3], -1, -1, -1)], -3)

    def attend(
        self, x: Tensor, s_t: Tensor, k_t: Tensor, seed_pixel: Tensor | None = None
    ) -> Tensor:
        """Eq. 9: the region that each image's own expert grows.

        Args:
            x: images, ``(..., B, 3, H, W)``.
            s_t: scope, ``(..., B, 1, H, W)``.
            k_t: experts, ``(..., B)``.
            seed_pixel: index into the flattened image, ``(B,)``; the most salient if not given.

        Returns:
            ``(..., B, 1, H, W)`` in [0, s_t].

        Raises:
            EconError: shapes do not fit, or there is no such expert or pixel.
        """
        batch, x, s_t, k_t = self._flat(x, "s_t", s_t, k_t)
        features = self.attentions.forward_selected(k_t, with_log(x, torch.ones_like(s_t)))
        features = self.with_pretrained(features, x)
        if seed_pixel is None:
            seed_pixel = find_seed_pixel(self._looks(x, features), s_t)
        else:
            pixels = self.config.size**2
            check_seed_pixels("seed_pixel", seed_pixel, (batch[-1],), pixels, x)
            seed_pixel = seed_pixel.expand(batch).flatten()
        logits = grow(features, seed_pixel, *self._growth)
        return restored(region(s_t, logits.sigmoid()), batch)

    def attend_all(self, x: Tensor, s_t: Tensor) -> Tensor:
        """The regions that all experts grow from the most salient pixel, without gradients."""
        return self.candidates(x, s_t, 1)[1][:, 0]

    def candidates(self, x: Tensor, s_t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Seed pixels of n layers, and the regions that all experts grow from each, no gradients.

        Args:
            x: images, ``(B, 3, H, W)``.
            s_t: scope, ``(B, 1, H, W)``.
            n: number of layers.

        Returns:
            Pixels ``(B, n)`` and regions ``(B, n, K, 1, H, W)`` in [0, s_t].
        """
        x, s_t = self._images(x), self._masks("s_t", s_t, x.shape[0])
        with torch.no_grad():
            features = self.with_pretrained(self._logits_of_all(x, torch.ones_like(s_t)), x)
            looks = self._looks(x, features.mean(1))
            return candidates(features, looks, s_t, n, *self._growth)

    def pixel_features(self, x: Tensor) -> Tensor:
        """Features of each pixel, the mean of all experts', without gradients.

        Args:
            x: images, ``(B, 3, H, W)``.

        Returns:
            g, then phi, ``(B, 1 + D, H, W)``, for :mod:`econ_pyro.core.pixel_features`.
        """
        with torch.no_grad():
            features = self._logits_of_all(x, torch.ones_like(x[:, :1])).mean(1)
            return self.with_pretrained(features, x)

    def regions(
        self, x: Tensor, k: Tensor, given: Selection | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scope and region of every layer, front to back: all layers are one batch.

        Arguments and result as of :meth:`AmortizedGuide.regions`.
        """
        seed_pixel = None if given is None or given.evidence is not None else given.seed_pixel
        if seed_pixel is None or k.shape[1] == 1:
            return super().regions(x, k, given)
        x, k = self._images(x), k[:, :-1]
        self._check_experts(k, x.shape[0], *k.shape[1:])
        pixels = seed_pixel[:, :-1]
        check_seed_pixels("seed_pixel", pixels, tuple(k.shape), self.config.size**2, x)
        inputs = with_log(x, torch.ones_like(x[:, :1]))
        features = self.with_pretrained(self.attentions.forward_each(k, inputs), x)
        return grow_all(features, pixels, *self._growth)

    def _looks(self, x: Tensor, features: Tensor) -> Tensor:
        """Of what seeds are salient, ``(n, C, H, W)``."""
        attention = self.config.expert.attention
        assert isinstance(attention, SeededAttention)
        return features[:, 1:] if attention.salience == "features" else x

    @property
    def _growth(self) -> tuple[bool, int]:
        attention = self.config.expert.attention
        assert isinstance(attention, SeededAttention)
        return attention.connected, attention.shifts

    def _propose(
        self, x: Tensor, s_t: Tensor, k_t: Tensor, i: int, given: Selection | None
    ) -> Tensor:
        fixed = None if given is None else given.seed_pixel
        return self.attend(x, s_t, k_t, None if fixed is None else fixed[:, i])

    def _check(self, given: Selection, scenes: int, slots: int) -> None:
        super()._check(given, scenes, slots)
        if given.seed_pixel is not None:
            shape, pixels = (scenes, slots), self.config.size**2
            check_seed_pixels("seed_pixel", given.seed_pixel, shape, pixels, self._zero, rest=True)


class SeedsAlone:
    """Regions that grow from seed pixels over colour and position, without an attention network.

    Features of a pretrained network play no part, either: these are what colour tells apart. All
    experts grow the same regions, and encode them as those of another guide. It is what a
    competition needs of a guide (:class:`~econ_pyro.infer.protocols.SeededGuide`), not a program.

    Args:
        guide: whose encoders are used.
        growth: weights of colour and place, and what regions are
            (:class:`~econ_pyro.model_config.SeededAttention`; its network plays no part).
    """

    def __init__(self, guide: AmortizedGuide, growth: SeededAttention) -> None:
        self.guide, self.growth = guide, growth

    def candidates(self, x: Tensor, s_t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """As :meth:`SeededGuide.candidates`."""
        growth, sharp = self.growth, torch.full_like(x[:, :1], SHARP)
        colour = growth.colour_weight * (chromaticity(x) if growth.chromaticity else x)
        features = torch.cat([sharp, colour, positions(x, growth.place_weight)], 1)
        seeds, r = candidates(features[:, None], x, s_t, n, growth.connected, growth.shifts)
        return seeds, r.expand(-1, -1, self.guide.config.num_experts, -1, -1, -1)

    def encode_all(
        self, x: Tensor, r: Tensor, noise: Tensor, s: Tensor | None = None
    ) -> TorchDistribution:
        """As :meth:`AmortizedGuide.encode_all`."""
        return self.guide.encode_all(x, r, noise, s)


def chromaticity(x: Tensor) -> Tensor:
    """Colours relative to their brightest channel, ``(n, 3, H, W)``."""
    return x / (x.amax(1, keepdim=True) + DARK)


def positions(x: Tensor, weight: float | Tensor) -> Tensor:
    """Rows and columns of the pixels from 0 to the weight, ``(n, 2, H, W)``."""
    height, width = (torch.linspace(0, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
    rows, columns = torch.meshgrid(height, width, indexing="ij")
    return weight * torch.stack([rows, columns]).expand(x.shape[0], -1, -1, -1)
