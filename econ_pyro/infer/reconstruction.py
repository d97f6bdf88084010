"""Layers as the winners of a competition explain them: what the class-conditional ELBO scores.

Only the regions have to be computed one after another, as each scope is what the nearer layers
left (from seed pixels, no network waits for it). Given them, the T layers of B images are encoded,
decoded and scored as one batch of B T, so that each expert runs once.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.infer.proposals import drawn_terms
from econ_pyro.infer.protocols import GivenGuide, Model
from econ_pyro.infer.terms import Terms


class Layers(NamedTuple):
    """Layers of B images, front to back, differentiable; fields as in a Decomposition."""

    scope: Tensor
    """``(B, T, 1, H, W)``."""
    region: Tensor
    """``(B, T, 1, H, W)``."""
    mean: Tensor
    """``(B, T, 3, H, W)``."""
    shape: Tensor
    """``(B, T, 1, H, W)``."""
    z: Tensor
    """``(B, T, L)``."""
    terms: Terms
    """Eqs. 10-12, ``(B, T)`` each."""


def reconstruct(model: Model, guide: GivenGuide, x: Tensor, k: Tensor) -> Layers:
    """Explain each layer by the expert that is given for it.

    Args:
        model: p.
        guide: q, with or without what a competition has fixed.
        x: images, ``(B, 3, H, W)``.
        k: expert of each layer, front to back, ``(B, T)``.
    """
    slots = k.shape[1]
    scope, r = guide.regions(x, k)
    q_z = guide.posteriors(x, r, k)  # batch (B T,)
    z = q_z.rsample()
    mean, shape = model.decode(z, k.flatten())
    l_z = kl_divergence(q_z, model.latent_prior(z.shape[0]))
    mean, shape, z, l_z = (a.unflatten(0, (-1, slots)) for a in (mean, shape, z, l_z))
    l_x, l_r = drawn_terms(model, x, scope, r, mean, shape)
    return Layers(scope, r, mean, shape, z, Terms(l_x, l_z, l_r))
