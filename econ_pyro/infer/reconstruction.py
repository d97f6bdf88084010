"""What given experts make of images: the layers that the class-conditional ELBO scores.

Only the regions need their turn, as each scope is what the nearer layers left (where regions grow
from seeds, no network waits for it). Given them, the T layers of B images are encoded, decoded and
scored as one batch of B T, so that each expert runs once for all that it won.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.core.compositing import fixed_region, next_scope
from econ_pyro.infer.proposals import Generator, Recogniser, drawn_terms
from econ_pyro.infer.terms import Terms


class Account(NamedTuple):
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


def account(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    k: Tensor,
    sigma_x: float,
    noise: Tensor | None = None,
    regions: Tensor | None = None,
    seeds: Tensor | None = None,
    occluders: Tensor | None = None,
) -> Account:
    """Explain each layer by the expert that is given for it.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        k: expert of each layer, front to back, ``(B, T)``.
        sigma_x: standard deviation of the pixels.
        noise: of the latents, ``(B, T, L)``; fresh if not given.
        regions: true regions in place of attention, ``(B, T, 1, H, W)``.
        seeds: pixels that regions grow from, ``(B, T)``; the most salient if not given.
        occluders: what the encoder sees in front of each layer, ``(B, T, 4, H, W)``; nothing if
            not given (:mod:`econ_pyro.core.occlusion`).
    """
    steps = k.shape[1]
    scope, r = _regions(guide, x, k, regions, seeds)
    of_layers = k.flatten()
    images = x.repeat_interleave(steps, 0)
    flat_noise = None if noise is None else noise.flatten(0, 1)
    flat_r = r.flatten(0, 1)  # (B T, 1, H, W)
    front = None if occluders is None else occluders.flatten(0, 1)
    q_z = guide.encode(images, flat_r, of_layers, flat_noise, front)
    z = q_z.rsample()
    mean, shape = model.decode(z, of_layers)
    l_z = kl_divergence(q_z, model.latent_prior(flat_r.shape[0]))
    mean, shape, z, l_z = (a.unflatten(0, (-1, steps)) for a in (mean, shape, z, l_z))
    l_x, l_r = drawn_terms(model, x, scope, r, mean, shape, sigma_x)
    return Account(scope, r, mean, shape, z, Terms(l_x, l_z, l_r))


def _regions(
    guide: Recogniser, x: Tensor, k: Tensor, regions: Tensor | None, seeds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scope and region of every layer, front to back (Eqs. 9 and 14)."""
    steps = k.shape[1]
    if regions is None and seeds is not None and guide.seeded and steps > 1:
        return guide.regions(x, k[:, :-1], seeds[:, :-1])
    s_t, before, taken = torch.ones_like(x[:, :1]), [], []
    for i in range(steps):
        r_t = fixed_region(s_t, i, steps, regions)
        if r_t is None:
            r_t = guide.attend(x, s_t, k[:, i], None if seeds is None else seeds[:, i])
        before.append(s_t)
        taken.append(r_t)
        s_t = next_scope(s_t, r_t)
    return torch.stack(before, 1), torch.stack(taken, 1)
