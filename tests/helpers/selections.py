"""Outcomes of competitions made by hand, and comparisons of them."""

import torch

from econ_pyro.core.selection import Draws, Selection


def draws_of(noise: torch.Tensor, experts: int = 3) -> Draws:
    """This noise of the latents, and no luck of any expert."""
    return Draws(noise, noise.new_zeros(*noise.shape[:2], experts))


def selected(
    k: torch.Tensor,
    noise: torch.Tensor,
    seed_pixel: torch.Tensor | None = None,
    evidence: torch.Tensor | None = None,
    occluder: torch.Tensor | None = None,
) -> Selection:
    """As if these experts had won; losses and regions, which programs do not use, are empty."""
    nothing = noise.new_empty(*k.shape, 0)
    return Selection(k, noise, seed_pixel, nothing, nothing, evidence, occluder)


def same_layers(a, b) -> bool:
    """Whether two decompositions have equal winners, regions and drawings."""
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("k", "region", "mean", "shape"))
