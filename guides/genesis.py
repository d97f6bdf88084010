r"""The posterior q of GENESIS (Engelcke et al., 2020), as a Pyro program.

.. math:: q(z | x) = \prod_t q(z^m_t | x, z^m_{>t}) \prod_t q(z^c_t | x, m_t)

A recurrent network reads features of the image and the earlier mask latents. Their masks are
decoded by the model's own decoder, and an encoder for all slots sees the image and a slot's mask.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro.accel.amp import at_least_float32
from econ_pyro.accel.compile import run
from econ_pyro.core import sites
from econ_pyro.core.compositing import with_log
from econ_pyro.core.gated_conv import GatedEncoder
from econ_pyro.core.input_images import program_images
from econ_pyro.core.parameters import program
from econ_pyro.core.slot_masks import DecodedMasks
from econ_pyro.guides.amortized import posterior, start_informative
from econ_pyro.guides.encoder import Encoder
from econ_pyro.model_config import GenesisConfig

MASK_GAIN, COMPONENT_GAIN = 20.0, 2.0  # means of images then differ by about 1


class MaskPosterior(nn.Module):
    """A recurrent network, and a linear map to the parameters of q(z^m_t).

    Args:
        features: of the image.
        latents: dimensions of a mask latent.
        hidden: units of the recurrent network.
    """

    def __init__(self, features: int, latents: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(features + latents, hidden)
        self.head = nn.Linear(hidden, 2 * latents)

    def forward(
        self, features: Tensor, z: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Means and log variances, ``(B, 2 L)``, and the network's state.

        Args:
            features: of the image, ``(B, features)``.
            z: the last latent, ``(B, L)``; zeros before the first.
            state: from the step before; None of the first.
        """
        state = self.cell(torch.cat([features, z], 1), state)
        return at_least_float32(self.head(state[0])), state


class GenesisGuide(nn.Module):
    """Encoders of masks and components, and the program that uses them.

    Args:
        config: number of slots, sizes.
        masks: masks ``(B, T, 1, H, W)`` of mask latents ``(B, T, L)``: the model's decoder.
    """

    def __init__(self, config: GenesisConfig, masks: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.config, self.masks = config, masks
        hidden = config.hidden
        self.mask_encoders = nn.ModuleList([GatedEncoder(config.channels, config.size, hidden)])
        self.mask_posteriors = nn.ModuleList([MaskPosterior(hidden, config.mask_dim, hidden)])
        self.encoders = nn.ModuleList([Encoder(config.networks, config.size)])
        if config.informative:
            self._start_informative()
        self.register_buffer("_zero", torch.zeros(()), persistent=False)
        self._zero: Tensor

    def _start_informative(self) -> None:
        """Without this, the means of the images of a batch differ by 0.02 and by 0.004."""
        for layer in self.encoders.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        posteriors, encoder = self.mask_posteriors[0], self.encoders[0]
        assert isinstance(posteriors, MaskPosterior) and isinstance(encoder, Encoder)
        last = encoder.head[-1]
        assert isinstance(last, nn.Linear)
        start_informative(last, COMPONENT_GAIN)
        start_informative(posteriors.head, MASK_GAIN)

    def encode(self, x: Tensor, m: Tensor) -> Tensor:
        """Means and log variances of the component latents, ``(B, T, 2 L)``.

        Args:
            x: images, ``(B, 3, H, W)``.
            m: masks, ``(B, T, 1, H, W)``.
        """
        images = x[:, None].expand(-1, m.shape[1], -1, -1, -1)
        seen = with_log(images.flatten(0, 1), m.flatten(0, 1))
        return at_least_float32(run(self.encoders[0], seen)).unflatten(0, m.shape[:2])

    def forward(self, x: Tensor, slots: int | None = None, mean: bool = False) -> None:
        """The program: sites ``z_mask_t`` for t = T..1, ``masks`` and ``z_component_t``.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].
            slots: number of slots T; the configuration's if not given.
            mean: latents are their means instead of samples.

        Raises:
            EconError: the images have another shape or type, or the number makes no sense.
        """
        config = self.config
        slots = config.num_slots if slots is None else slots
        slots = arguments.as_int("slots", slots, maximum=arguments.MAX_LAYERS)
        x = program_images(x, config.size, self._zero)
        noise = self._zero if mean else None
        networks = program(
            mask_encoder=self.mask_encoders,
            mask_posterior=self.mask_posteriors,
            encoder=self.encoders,
        )
        with networks, pyro.plate(sites.SCENES, len(x)):
            features = run(self.mask_encoders[0], x)
            z_t, state, found = self._zero.expand(len(x), config.mask_dim), None, []
            for t in sites.front_to_back(slots):
                out, state = self.mask_posteriors[0](features, z_t, state)
                z_t = pyro.sample(sites.z_mask(t), posterior(out, noise))
                found.append(z_t)
            z_mask = torch.stack(found, 1)
            event = torch.Size((slots, 1, config.size, config.size))
            masks = DecodedMasks(lambda: self.masks(z_mask), torch.Size((len(x),)), event)
            out = self.encode(x, pyro.sample(sites.MASKS, masks))
            for i, t in enumerate(sites.front_to_back(slots)):
                pyro.sample(sites.z_component(t), posterior(out[:, i], noise))
