r"""Slot Attention (Locatello et al., 2020): an encoder and slots that compete for its pixels.

A network gives each pixel i features f_i, to which its position is added. Slots start as samples
of one learnt Gaussian. In each of a few iterations they attend to the pixels, with a softmax
*over slots*, so that they compete for pixels, and each moves by the mean of what it attends to:

.. math:: a_{t,i} = softmax_t(q(z_t) \cdot k(f_i) / \sqrt{L}), \quad
          u_t = \sum_i a_{t,i} v(f_i) / \sum_i a_{t,i}, \quad
          z_t \leftarrow h(GRU(u_t, z_t))

with h(z) = z + MLP(LayerNorm(z)), and q, k, v linear maps of normalised slots and features. All
slots have the same parameters: slots whose starts are permuted come out permuted.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import Delta, Normal
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.compile import run
from econ_pyro.core import sites
from econ_pyro.core.input_images import program_images
from econ_pyro.core.parameters import program
from econ_pyro.core.pose import coordinates
from econ_pyro.core.tensors import site_value
from econ_pyro.model_config import SlotAttentionConfig

KERNEL = 5
ATTENTION_EPS = 1e-8  # so that a slot without any pixel has a mean


class PixelEncoder(nn.Module):
    """Images to the features of their pixels: convolutions, positions, and two linear layers.

    Args:
        config: sizes.
    """

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs, features = 3, config.features
        for _ in range(config.layers):
            convolution = nn.Conv2d(inputs, features, KERNEL, padding=KERNEL // 2)
            blocks += [convolution, nn.ReLU(inplace=True)]
            inputs = features
        self.blocks = nn.Sequential(*blocks)
        self.position = nn.Conv2d(2, features, 1)
        self.register_buffer("grid", coordinates(config.size), persistent=False)
        self.grid: Tensor
        self.mix = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, features),
            nn.ReLU(inplace=True),
            nn.Linear(features, features),
            nn.LayerNorm(features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features, normalised, ``(B, H W, F)`` in float32 or better, of ``(B, 3, H, W)``."""
        h = self.blocks(x.contiguous(memory_format=torch.channels_last))
        h = h + self.position(self.grid)
        return at_least_float32(self.mix(h.flatten(2).mT))


class SlotUpdate(nn.Module):
    """One iteration of Slot Attention, and the Gaussian of the slots' starts.

    Args:
        config: sizes.
    """

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__()
        dim = config.latent_dim
        self.mean, self.log_scale = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(config.features, dim, bias=False)
        self.value = nn.Linear(config.features, dim, bias=False)
        self.cell = nn.GRUCell(dim, dim)
        self.residual = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, dim),
        )

    def attend(self, z: Tensor, keys: Tensor) -> Tensor:
        """Share of each slot in each pixel, ``(B, T, H W)``; sums to 1 over slots.

        Args:
            z: slots, ``(B, T, L)``.
            keys: of the pixels, ``(B, H W, L)``.
        """
        logits = at_least_float32(self.query(self.norm(z)) @ keys.mT)
        return (logits / z.shape[-1] ** 0.5).softmax(1)

    def forward(self, z: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Slots after the iteration, ``(B, T, L)``, and their attention in it, ``(B, T, H W)``.

        Args:
            z: slots, ``(B, T, L)``.
            keys: of the pixels, ``(B, H W, L)``.
            values: of the pixels, ``(B, H W, L)``.
        """
        attention = self.attend(z, keys)
        weight = attention + ATTENTION_EPS
        update = (weight / weight.sum(2, keepdim=True)) @ at_least_float32(values)
        moved = self.cell(update.flatten(0, 1), z.flatten(0, 1)).view_as(z)
        return at_least_float32(moved + self.residual(moved)), attention


class SlotAttentionGuide(nn.Module):
    """An encoder of pixels and iterated attention, and the program that explains with them.

    Args:
        config: number of slots, sizes, number of iterations.
    """

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList([PixelEncoder(config)])
        self.updates = nn.ModuleList([SlotUpdate(config)])
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self._zero: Tensor

    def refine(self, start: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Slots after all iterations, ``(B, T, L)``, and their last attention, ``(B, T, H W)``.

        Args:
            start: slots, ``(B, T, L)``.
            features: of the pixels, ``(B, H W, F)``.
        """
        update = self._update()
        keys, values = update.key(features), update.value(features)
        z, attention = start, start.new_zeros(0)
        for _ in range(self.config.iterations):
            z, attention = update(z, keys, values)
        return z, attention

    def forward(self, x: Tensor, slots: int | None = None, mean: bool = False) -> None:
        """The program: ``z_start_t`` for t = T..1, which the model lacks, ``attention``, ``z_t``.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            slots: number of slots T; the configuration's if not given.
            mean: slots start at the same values each time.

        Raises:
            EconError: the images have another shape or type, or the number makes no sense.
        """
        slots = self.config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        x = program_images(x, self.config.size, self._zero)
        networks = program(encoder=self.encoders, update=self.updates)
        with networks, pyro.plate(sites.SCENES, len(x)):
            features = run(self.encoders[0], x)
            z, attention = self.refine(self._start(len(x), slots, mean), features)
            attention = attention.unflatten(2, x.shape[2:])[:, :, None]  # (B, T, 1, H, W)
            pyro.deterministic(sites.ATTENTION, attention, event_dim=4)
            for i, t in enumerate(sites.front_to_back(slots)):
                pyro.sample(sites.z(t), Delta(z[:, i], event_dim=1))

    def _update(self) -> SlotUpdate:
        update = self.updates[0]
        assert isinstance(update, SlotUpdate)
        return update

    def _start(self, scenes: int, slots: int, mean: bool) -> Tensor:
        """Slots before the first iteration, ``(B, T, L)``."""
        update, event = self._update(), (self.config.latent_dim,)
        loc, scale = update.mean + self._zero, update.log_scale.exp()
        if mean:  # the same whenever a decomposition is asked for
            generator = torch.Generator().manual_seed(0)
            fixed = torch.randn(slots, *event, generator=generator).to(loc)
            return (loc + scale * fixed).expand(scenes, -1, -1)
        options: Any = {"is_auxiliary": True}
        prior, drawn = Normal(loc, scale).expand((scenes, *event)).to_event(1), []
        for t in sites.front_to_back(slots):
            name = sites.z_start(t)
            z_t = pyro.sample(name, prior, infer=options)
            drawn.append(site_value(name, z_t, scenes, event, self._zero))
        return torch.stack(drawn, 1)
