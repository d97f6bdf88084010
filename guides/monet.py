r"""MONet's posterior q (Burgess et al., 2019), as a Pyro program.

Attention, the same network at each step, takes a share of what earlier steps left; an encoder for
all slots sees the image and a slot's mask:

.. math:: m_t = s_t \sigma(a(x, s_t)), \quad s_{t-1} = s_t (1 - \sigma(a(x, s_t))), \quad
          m_1 = s_1, \quad q(z_t | x, m_t) = N(enc(x, \log m_t))

Attention is deterministic: the site ``masks`` is a categorical distribution of each pixel's slot,
whose sample is its mean.
"""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.compile import run
from econ_pyro.core import sites
from econ_pyro.core.compositing import SCOPE_EPS
from econ_pyro.core.input_images import program_images
from econ_pyro.core.parameters import program
from econ_pyro.core.slot_masks import SlotMasks, break_off
from econ_pyro.guides.amortized import posterior
from econ_pyro.guides.attention import AttentionUNet
from econ_pyro.guides.encoder import Encoder
from econ_pyro.model_config import MonetConfig

LEAST = torch.tensor(SCOPE_EPS).log().item()  # log of a scope or mask as networks see it


class MonetGuide(nn.Module):
    """An attention network and an encoder for all slots, and the program that uses them.

    Args:
        config: number of slots, sizes.
    """

    def __init__(self, config: MonetConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.networks, config.size
        self.attentions = nn.ModuleList([AttentionUNet(*sizes)])
        self.encoders = nn.ModuleList([Encoder(*sizes)])
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self._zero: Tensor

    def log_masks(self, x: Tensor, slots: int) -> Tensor:
        """Log masks of T slots, one attention step after another.

        Args:
            x: images, ``(B, 3, H, W)``.
            slots: number of slots T.

        Returns:
            ``(B, T, 1, H, W)``.
        """
        log_s, found = torch.zeros_like(x[:, :1]), []
        for _ in range(slots - 1):
            seen = torch.cat([x, log_s.clamp_min(LEAST)], 1)
            logits = at_least_float32(run(self.attentions[0], seen))
            log_m, log_s = break_off(log_s, logits)
            found.append(log_m)
        return torch.stack([*found, log_s], 1)

    def encode(self, x: Tensor, log_m: Tensor) -> Tensor:
        """Means and log variances of the latents of all slots, ``(B, T, 2 L)``.

        Args:
            x: images, ``(B, 3, H, W)``.
            log_m: log masks, ``(B, T, 1, H, W)``.
        """
        images = x[:, None].expand(-1, log_m.shape[1], -1, -1, -1)
        seen = torch.cat([images, log_m.clamp_min(LEAST)], 2)
        out = run(self.encoders[0], seen.flatten(0, 1))
        return at_least_float32(out).unflatten(0, log_m.shape[:2])

    def forward(self, x: Tensor, slots: int | None = None, mean: bool = False) -> None:
        """The program: sites ``masks``, then ``z_t`` for t = T..1.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            slots: number of slots T; the configuration's if not given.
            mean: latents are their means instead of samples.

        Raises:
            EconError: the images have another shape or type, or the number makes no sense.
        """
        slots = self.config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        x = program_images(x, self.config.size, self._zero)
        networks = program(attention=self.attentions, encoder=self.encoders)
        with networks, pyro.plate(sites.SCENES, len(x)):
            masks = SlotMasks(self.log_masks(x, slots))
            m = pyro.sample(sites.MASKS, masks)
            out = self.encode(x, m.clamp_min(SCOPE_EPS).log())
            for i, t in enumerate(sites.front_to_back(slots)):
                noise = self._zero if mean else None
                pyro.sample(sites.z(t), posterior(out[:, i], noise))
