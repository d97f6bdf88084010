r"""Objective of models whose slots share the pixels out: MONet, GENESIS, Slot Attention, IODINE.

Of the slots t of an image, in nats:

.. math::
    L_x = -\sum_i \log \sum_t m_{t,i} N(x_i | \mu_{t,i}, \sigma_t^2), \quad
    L_z = \sum_t KL(q(z_t) \| p(z_t)), \quad
    L_r = \sum_i KL(q(m_i) \| p(m_i))

and the loss is :math:`L_x + \beta L_z + \gamma L_r`, as of Eq. 13. :func:`explained` reads the
terms off a trace of the guide and of the model replayed against it. Each is divided among the
slots, so that it has the form of ECON's (:class:`~econ_pyro.infer.elbo.Terms`); sums over slots
are what the formulas say. KLs are analytic, given the samples of earlier slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.core import sites
from econ_pyro.core.slot_masks import SlotMasks, slot_divergences
from econ_pyro.infer.elbo import Terms


class Explained(NamedTuple):
    """Images explained by a guide and a model."""

    slots: Any
    """What the model's program returned."""
    terms: Terms
    """L_x, L_z and L_r of each slot, ``(B, T)`` nats."""


def explained(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor,
    slots: int,
    mean: bool = False,
) -> Explained:
    """Slots and terms of images, differentiable.

    Args:
        model: p, a program of images and a number of slots.
        guide: q, a program of the same.
        x: images, ``(B, 3, H, W)``.
        slots: number of slots T.
        mean: explain them by means of the latents instead of samples.
    """
    q = poutine.trace(guide).get_trace(x, slots, mean)
    return _explained(model, q, x, slots)


def _explained(model: Callable[..., Any], q: poutine.Trace, x: Tensor, slots: int) -> Explained:
    """:func:`explained`, given a trace of the guide."""
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x, slots)
    image: Any = p.nodes[sites.IMAGE]
    l_x = inner(image["fn"]).slot_losses(image["value"])  # (B, T)
    l_z = torch.stack([_latents(q, p, t) for t in sites.front_to_back(slots)], 1)
    l_r = torch.zeros_like(l_x)
    if sites.MASKS in q.nodes:
        q_m, p_m = (inner(trace.nodes[sites.MASKS]["fn"]) for trace in (q, p))
        if isinstance(q_m, SlotMasks):  # others follow from the latents in both
            l_r = slot_divergences(q_m, p_m)
    return Explained(p.nodes["_RETURN"]["value"], Terms(l_x, l_z, l_r))


def refined_terms(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, slots: int
) -> Terms:
    r"""Terms of a posterior that is refined in R rounds: IODINE's objective.

    .. math:: L = \sum_{r=0}^R w_r L^r, \qquad w_r = 2 r / (R (R + 1))

    Later rounds count more and the first one not at all. Weights sum to 1, so that the terms
    are comparable with those of the last round alone.

    Args:
        model: p, as of :func:`explained`.
        guide: q, a program that returns L_x and L_z of each draft, ``(B, T)`` nats.
        x: images, ``(B, 3, H, W)``.
        slots: number of slots T.

    Returns:
        ``(B, T)`` nats each, differentiable.
    """
    q = poutine.trace(guide).get_trace(x, slots)
    drafts: Any = q.nodes["_RETURN"]["value"]
    rounds = [Terms(l_x, l_z, torch.zeros_like(l_x)) for l_x, l_z in drafts]
    rounds.append(_explained(model, q, x, slots).terms)
    whole = sum(range(len(rounds)))
    parts = [[a * (r / whole) for a in terms] for r, terms in enumerate(rounds)]
    return Terms(*(torch.stack(same).sum(0) for same in zip(*parts, strict=True)))


def inner(fn: Any) -> Any:
    """A distribution without what plates wrap around it."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _latents(q: poutine.Trace, p: poutine.Trace, t: int) -> Tensor:
    """KL of all latents of layer t, ``(B,)``."""
    found = []
    for name in sites.latents(t):
        if name in q.nodes:
            fns: list[Any] = [trace.nodes[name]["fn"] for trace in (q, p)]
            found.append(kl_divergence(*fns))
    return torch.stack(found).sum(0)
