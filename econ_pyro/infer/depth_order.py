r"""The depth order that makes an image likeliest, with regions marginalised out.

Given the appearances mu and shapes m of all layers, each pixel is a mixture over the layers,

.. math:: p(x_i | z, k) = \sum_t m_{ti} \prod_{u \text{ before } t} (1 - m_{ui}) \,
    N(x_i; \mu_{ti}, \sigma^2)

(the last layer is everywhere). So orders are compared exactly, without a network, and the errors
under the normal densities are the same in all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.accel.compile import compilable
from econ_pyro.core.compositing import next_scope, region, regions_of_shapes
from econ_pyro.core.distributions import PROB_EPS
from econ_pyro.infer.decomposition import in_order

SWEEPS = 2  # through the places of an order
MARGIN = 1e-2  # nats by which another order is better: rounding errors are to move no layer


def log_joint(errors: Tensor, shape: Tensor) -> Tensor:
    """Log of each layer's part of the mixture, ``(B, T, 1, H, W)``, up to a constant.

    Args:
        errors: :func:`~econ_pyro.core.distributions.pixel_errors` front to back, ``(B, T, 1, H,
            W)``.
        shape: shape probabilities front to back, ``(B, T, 1, H, W)``; the last play no part.
    """
    everywhere = torch.ones_like(shape[:, :1])
    weight = regions_of_shapes(torch.cat([shape[:, :-1], everywhere], 1))
    return (weight + PROB_EPS).log() - errors


def log_likelihood(errors: Tensor, shape: Tensor) -> Tensor:
    """Log p(x | z, k), regions summed out, ``(B,)`` nats up to a constant: :func:`log_joint`."""
    density, least = _densities(errors)
    return _log_mixture(density, shape) - least.sum((1, 2, 3, 4))


def _densities(errors: Tensor) -> tuple[Tensor, Tensor]:
    """Each layer's density at each pixel over the largest there, and the error of that one.

    They are the same in all orders: what orders are compared by needs one logarithm a pixel.
    """
    least = errors.amin(1, keepdim=True)
    return (least - errors).exp(), least


def _log_mixture(density: Tensor, shape: Tensor) -> Tensor:
    """Log of the pixels' mixtures of densities, summed, ``(B,)``: layers front to back."""
    s_t = torch.ones_like(shape[:, 0])
    mixed = PROB_EPS * density.sum(1)
    for d_t, m_t in zip(density[:, :-1].unbind(1), shape[:, :-1].unbind(1), strict=True):
        r_t = region(s_t, m_t)
        mixed = torch.addcmul(mixed, r_t, d_t)
        s_t = next_scope(s_t, r_t)
    return torch.addcmul(mixed, s_t, density[:, -1]).log().sum((1, 2, 3))


def explains_enough(errors: Tensor, shape: Tensor, l_z: Tensor) -> Tensor:
    """Whether a layer explains more than its latent costs, ``(B, T)`` bool.

    From the back on, layers without which the image is as likely but for L_z are left out. The
    last one always stays.

    Args:
        errors: :func:`~econ_pyro.core.distributions.pixel_errors` front to back, ``(B, T, 1, H,
            W)``.
        shape: shape probabilities, ``(B, T, 1, H, W)``.
        l_z: Eq. 11 of each layer, ``(B, T)``.
    """
    density, _ = _densities(errors)
    slots = shape.shape[1]
    kept, index = torch.ones_like(l_z, dtype=torch.bool), torch.arange(slots, device=l_z.device)
    likely = _log_mixture(density, shape)
    for t in reversed(range(slots - 1)):
        without = kept & (index != t)
        rest = _log_mixture(density, only(without, shape))
        leave = likely - rest < l_z[:, t]
        kept = kept & ~(leave[:, None] & (index == t))
        likely = torch.where(leave, rest, likely)
    return kept


def likeliest_order(errors: Tensor, shape: Tensor) -> Tensor:
    """Indices of the layers in the order that makes an image likeliest, ``(B, T)`` int64.

    For each position from the front, the layer that makes the image likeliest there is moved to
    it, in two sweeps: O(T^2) orders in place of all (T - 1)!, without a network. The last layer
    stays.

    Args:
        errors: :func:`~econ_pyro.core.distributions.pixel_errors` front to back, ``(B, T, 1, H,
            W)``.
        shape: shape probabilities front to back, ``(B, T, 1, H, W)``.
    """
    (n, slots), device = shape.shape[:2], shape.device
    rows = torch.arange(n, device=device)
    order = torch.arange(slots, device=device).repeat(n, 1)
    density, _ = _densities(errors)
    both = torch.stack([density, shape], 2)  # (B, T, 2, 1, H, W)
    for moves in SWEEPS * [_moves(place, slots, device) for place in range(slots - 2)]:
        tried = order[:, moves]  # (B, moves, T), as it is first
        moved = both[rows[:, None, None], tried].flatten(0, 1)
        likely = _log_mixture(*moved.unbind(2)).unflatten(0, (-1, tried.shape[1]))
        stay = likely[:, :1] + MARGIN
        order = tried[rows, torch.cat([stay, likely[:, 1:]], 1).argmax(1)]
    return order


def _moves(place: int, slots: int, device: torch.device) -> Tensor:
    """Places of the layers when each of those from ``place`` on goes there, ``(moves, T)``."""
    t = torch.arange(slots, device=device)
    moved = t[place:-1, None]
    behind = t - ((t > place) & (t <= moved)).long()  # what was before it moves back by one
    return torch.where(t == place, moved, behind)


@compilable
def arrange(errors: Tensor, shape: Tensor, l_z: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest order, with layers that are not worth their latents behind all but the last.

    Args:
        errors: :func:`~econ_pyro.core.distributions.pixel_errors`, ``(B, T, 1, H, W)``.
        shape: shape probabilities, ``(B, T, 1, H, W)``.
        l_z: Eq. 11 of each layer, ``(B, T)``.

    Returns:
        Indices of the layers front to back, ``(B, T)`` int64, and which of the layers in that
        order are worth it, ``(B, T)`` bool.
    """
    kept = explains_enough(errors, shape, l_z)
    order = likeliest_order(errors, only(kept, shape))
    slots = order.shape[1]
    spare = (~in_order(kept, order))[:, :-1] * slots + torch.arange(slots - 1, device=l_z.device)
    order = torch.cat([in_order(order, spare.argsort(1)), order[:, -1:]], 1)
    return order, in_order(kept, order)


def only(kept: Tensor, shape: Tensor) -> Tensor:
    """Shapes of the layers that are kept, and nothing of the others."""
    return shape * kept[:, :, None, None, None]
