r"""Algebra of layers: scope, regions and composition.

With shapes m_t painted back to front, what is visible of layer t is what no nearer layer covers:

.. math:: s_T = 1, \qquad r_t = s_t m_t, \qquad s_{t-1} = s_t - r_t, \qquad x = \sum_t r_t x_t

(Eqs. 1-3). Inference replaces m_t by an attention a_t in [0, 1] (Eq. 14). For binary regions
s - r equals the paper's s (1 - r); for soft ones only s - r makes the regions sum to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.accel.compile import compilable

SCOPE_EPS = 1e-5  # smallest scope and region that a network gets to see, as a log


def region(s_t: Tensor, m_t: Tensor) -> Tensor:
    """Eq. 2: the visible part of a shape (or of an attention) within the scope."""
    return s_t * m_t


def next_scope(s_t: Tensor, r_t: Tensor) -> Tensor:
    """Eq. 14: what is left to explain."""
    return (s_t - r_t).clamp_min(0.0)  # rounding may leave -1e-8


def median_region(r: Tensor) -> Tensor:
    """The (lower) median over K experts of the share each takes of a pixel, ``(n, 1, H, W)``.

    A single expert that takes nothing of an object, or too much, does not move the median; a mean
    would leave a remainder of every object.

    Args:
        r: regions, ``(n, K, 1, H, W)``.
    """
    values = list(r.unbind(1))
    middle = (len(values) - 1) // 2
    for i in range(middle + 1):  # a partial bubble sort: 12 times faster than topk for K = 4
        for j in range(len(values) - 1, i, -1):
            a, b = values[j - 1 : j + 1]
            values[j - 1] = torch.minimum(a, b)
            if i < middle:
                values[j] = torch.maximum(a, b)
    return values[middle]


def safe_log(probability: Tensor) -> Tensor:
    """Log of a scope or region as networks see it, never below log SCOPE_EPS."""
    return probability.clamp_min(SCOPE_EPS).log()


def mean_over(r: Tensor, values: Tensor) -> Tensor:
    """Mean of values over a region or scope, ``(n, C)``.

    Args:
        r: weights, ``(n, 1, H, W)``, nowhere 0.
        values: ``(n, C, H, W)``.
    """
    return (r * values).sum((2, 3)) / r.sum((2, 3))


def with_log(x: Tensor, mask: Tensor) -> Tensor:
    """Images and the log of a scope or region, as networks see them, ``(n, 4, H, W)``."""
    return torch.cat([x, safe_log(mask)], 1)


@compilable
def regions_of_shapes(m: Tensor) -> Tensor:
    """Eqs. 1 and 2: visible regions of a stack of shapes.

    Args:
        m: shapes front to back, ``(B, T, 1, H, W)`` in [0, 1].

    Returns:
        Regions, same shape as ``m``; they sum to at most 1 over layers.
    """
    s_t, regions = torch.ones_like(m[:, 0]), []
    for m_t in m.unbind(1):
        regions.append(region(s_t, m_t))
        s_t = next_scope(s_t, regions[-1])
    return torch.stack(regions, 1)


@compilable
def scopes(r: Tensor) -> Tensor:
    """Eq. 14 for all layers: what is left to explain before each.

    Args:
        r: regions front to back, ``(B, T, 1, H, W)``.

    Returns:
        Same shape as ``r``; the first is 1 everywhere.
    """
    s_t, before = torch.ones_like(r[:, 0]), []
    for r_t in r.unbind(1):
        before.append(s_t)
        s_t = next_scope(s_t, r_t)
    return torch.stack(before, 1)


def paint(canvas: Tensor, m_t: Tensor, x_t: Tensor) -> Tensor:
    """Section 2, last line: place a layer on the canvas."""
    return m_t * x_t + (1 - m_t) * canvas


def compose(r: Tensor, x: Tensor) -> Tensor:
    """Eq. 3: the scene from its visible regions.

    Args:
        r: regions, ``(B, T, 1, H, W)``.
        x: appearances, ``(B, T, 3, H, W)``.

    Returns:
        Images, ``(B, 3, H, W)``.
    """
    return (r * x).sum(dim=1)


def stages(m: Tensor, x: Tensor) -> Tensor:
    """The canvas after each layer, as painting goes on from the back (Fig. 7).

    Args:
        m: shapes front to back, ``(B, T, 1, H, W)``.
        x: appearances front to back, ``(B, T, 3, H, W)``.

    Returns:
        ``(B, T, 3, H, W)`` in the order of painting; the last is the scene.
    """
    canvas, seen = torch.zeros_like(x[:, 0]), []
    for i in reversed(range(x.shape[1])):
        canvas = paint(canvas, m[:, i], x[:, i])
        seen.append(canvas)
    return torch.stack(seen, 1)
