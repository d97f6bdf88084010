r"""Samples from the approximate posterior of images, as an ArviZ tree.

A draw decomposes an image front to back, as in a training step. At each layer

* every expert proposes a region and samples its latents z from the Gaussian q(z | x, r, k);
* with seeded guides, layers are ordered by the most likely depth order;
* the winner k is sampled with :math:`P(k) \propto \exp(-\text{loss}_k / \tau)` (section 5.2),
  without load balancing, and its z is kept;
* r is the mean of the winner's Bernoulli region (section 5.1), the probability that a pixel shows
  the layer, and the scope of later layers is what remains.

Between draws, r therefore varies only with the winners, not independently per pixel. The mean of
r over draws is the marginal probability that a pixel shows the layer. Draws are independent, so
there is one chain, and convergence diagnostics are not needed. They express uncertainty within the
approximation, which neglects less likely depth orders and does not include refinement
(:mod:`econ_pyro.infer.refinement`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from econ_pyro import arguments
from econ_pyro.core.handlers import seeded
from econ_pyro.core.input_images import as_images
from econ_pyro.errors import EconError
from econ_pyro.infer.strategies import decomposition_of
from econ_pyro.training.schedules import last_temperature

if TYPE_CHECKING:
    from econ_pyro.econ import Econ

DIMS = {
    "k": ["scene", "layer"],
    "z": ["scene", "layer", "latent"],
    "r": ["scene", "layer", "y", "x"],
}


def to_arviz(
    econ: Econ,
    images: Tensor,
    draws: int = 100,
    seed: int = 0,
    temperature: float | None = None,
    batch: int = 64,
) -> Any:
    """Sample decompositions of images from the approximate posterior.

    Args:
        econ: the scene model.
        images: ``(B, 3, H, W)`` float in [0, 1].
        draws: number of samples per image. The regions of one sample of all images take
            4 B T H W bytes.
        seed: seed of the samples; the global generators are not changed.
        temperature: temperature tau of the competition in nats; its final value in training if
            not given. With 0, the expert with the lowest loss always wins.
        batch: number of decompositions that are computed together.

    Returns:
        An ``xarray.DataTree`` with the groups ``posterior`` (k, the index of the expert; z; r;
        each by chain, draw, scene and layer, where layer 1 is the nearest) and
        ``observed_data`` (image). The attribute ``experts`` of ``posterior`` has the names of the
        experts.

    Raises:
        EconError: the shape, type or range of the images is wrong; a count is below 1; the
            temperature is negative; or arviz-base is not installed.
    """
    try:
        import arviz_base
    except ImportError:
        raise EconError(
            "the package arviz-base",
            "none installed",
            "pip install 'econ-pyro[arviz]', with Python 3.11 or later",
        ) from None
    images = as_images(images, econ.sizes.size, econ.dtype)
    samples = _sample(econ, images, draws, seed, temperature, batch)
    size, slots = econ.sizes.size, econ.sizes.num_slots
    tree = arviz_base.from_dict(
        {
            "posterior": {name: value[None] for name, value in samples.items()},
            "observed_data": {"image": images.numpy(force=True)},
        },
        coords={
            "scene": np.arange(len(images)),
            "layer": np.arange(1, slots + 1),
            "latent": np.arange(econ.sizes.expert.latents.dim),
            "channel": ["red", "green", "blue"],
            "y": np.arange(size),
            "x": np.arange(size),
        },
        dims={**DIMS, "image": ["scene", "channel", "y", "x"]},
    )
    tree["posterior"].attrs["experts"] = list(econ.names)
    return tree


def _sample(
    econ: Econ, images: Tensor, draws: int, seed: int, temperature: float | None, batch: int
) -> dict[str, np.ndarray]:
    """Arrays k (draws, B, T), z (draws, B, T, L) and r (draws, B, T, H, W), front to back."""
    draws, batch = arguments.as_int("draws", draws), arguments.as_int("batch", batch)
    if temperature is None:
        temperature = last_temperature(econ.sizes.competition)
    temperature = arguments.as_float("a temperature of 0 or more", temperature, 0.0)
    slots, device = econ.sizes.num_slots, econ.device
    competition = decomposition_of(econ.config, slots, evidence=False, refine=False)
    competition = replace(competition, temperature=temperature)
    bytes_per_draw = images[:, :1].numel() * images.element_size() * slots
    arguments.check_memory("draws", draws, bytes_per_draw)
    scene = torch.arange(len(images)).repeat(draws)  # index of the image of each sample
    parts = []
    with seeded(seed, device):
        for rows in scene.split(min(batch, len(scene))):
            x = images[rows].to(device)
            draws_of_rows = competition.draw(econ.model, len(x), x)
            d = competition.decompose(econ.model, econ.guide, x, draws=draws_of_rows).cpu()
            parts.append({"k": d.k, "z": d.z, "r": d.region.squeeze(2)})
    return {
        name: torch.cat([p[name] for p in parts]).unflatten(0, (draws, len(images))).numpy()
        for name in DIMS
    }
