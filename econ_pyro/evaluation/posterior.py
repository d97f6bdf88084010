r"""Draws from the approximate posterior of images, as an ArviZ tree.

A draw explains an image once, front to back, as a step of training does: at each layer

* every expert proposes a region and draws its latent z from its Gaussian q(z | x, r, k);
* where regions grow from seeds, layers stand in the order that the best drawings make likeliest;
* the winner k is drawn with :math:`P(k) \propto \exp(-\text{score}_k / \tau)` (section 5.2), with
  no handicap; it is the winner's z that is kept;
* r is the winner's region as the probability that a pixel shows the layer, the mean of its
  Bernoulli (section 5.1), and what later layers see is what it leaves.

r therefore varies between draws with the winners, not from pixel to pixel; the mean of r over
draws is the probability that a pixel shows the layer, whoever wins. Draws are independent of each
other: one chain, and no diagnostics of chains are needed. They say how unsure the model is within
its approximation, which leaves out less likely orders of the layers, and are not refined
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
    "k": ["scene", "step"],
    "z": ["scene", "step", "latent"],
    "r": ["scene", "step", "y", "x"],
}


def to_arviz(
    econ: Econ,
    images: Tensor,
    draws: int = 100,
    seed: int = 0,
    temperature: float | None = None,
    batch: int = 64,
) -> Any:
    """Draw explanations of images from the approximate posterior.

    Args:
        econ: the scene model.
        images: ``(B, 3, H, W)`` float in [0, 1].
        draws: explanations of each image. Regions take B T H W 4 bytes each.
        seed: of the draws; the global generator is left as it was.
        temperature: tau of the competition in nats; the one at the end of training if not given.
            0 always takes the best.
        batch: explanations at a time.

    Returns:
        An ``xarray.DataTree`` with the groups ``posterior`` (k, index of the expert; z; r; each
        by chain, draw, scene and step, where step 1 is the nearest layer) and ``observed_data``
        (image). The names of the experts are in the attribute ``experts`` of ``posterior``.

    Raises:
        EconError: images of another shape, type or range; a count below 1; a negative
            temperature; or arviz-base is not installed.
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
    drawn = _draw(econ, images, draws, seed, temperature, batch)
    size, steps = econ.sizes.size, econ.sizes.num_slots
    tree = arviz_base.from_dict(
        {
            "posterior": {name: value[None] for name, value in drawn.items()},
            "observed_data": {"image": images.numpy(force=True)},
        },
        coords={
            "scene": np.arange(len(images)),
            "step": np.arange(1, steps + 1),
            "latent": np.arange(econ.sizes.expert.latents.dim),
            "channel": ["red", "green", "blue"],
            "y": np.arange(size),
            "x": np.arange(size),
        },
        dims={**DIMS, "image": ["scene", "channel", "y", "x"]},
    )
    tree["posterior"].attrs["experts"] = list(econ.names)
    return tree


def _draw(
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
    each = images[:, :1].numel() * images.element_size() * slots
    arguments.check_memory("draws", draws, each)
    scene = torch.arange(len(images)).repeat(draws)  # of each explanation
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
