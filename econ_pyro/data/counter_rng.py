r"""Counter-based random numbers: a function of (seed, index, draw), identical on every device.

A stateful generator has to draw scenes 0 to 6 before scene 7; a counter-based hash gives any scene
directly, so scenes do not depend on batch size, number of workers or device. With :math:`\mu` a
bijection of the 32-bit integers that mixes all bits (Wellons' "lowbias32"),

.. math:: a = \mu(i \oplus \mu(s)), \quad b = \mu(a \oplus \nu), \quad
          u_d = \mu(\mu(a + d g) \oplus b),

where s is the seed, i the index, :math:`\nu` the bits of index and seed above the lowest 32, d
the draw, and g the odd integer of the golden ratio. For i below :math:`2^{32}`, all a differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
# Multipliers modulo 2^32. The second is written as a negative number, so that both are below 2^31
# in magnitude and products with 32-bit words fit into int64.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
_GOLDEN = 0x9E3779B9


def _mix(x: Tensor) -> Tensor:
    """The bijection mu of 32-bit words, held in int64."""
    x = (x ^ (x >> 16)) * _FIRST & _WORD
    x = (x ^ (x >> 15)) * _SECOND & _WORD
    return x ^ (x >> 16)


def bits(seed: int, indices: Tensor, draws: int) -> Tensor:
    """32 random bits for each index and draw.

    Args:
        seed: any integer; the lowest 64 bits are used.
        indices: :math:`(B,)` int64, non-negative.
        draws: number D of draws per index.

    Returns:
        :math:`(B, D)` int64 in [0, 2^32), on the device of ``indices``.
    """
    low = torch.tensor(seed & _WORD, dtype=torch.int64, device=indices.device)
    high = (seed >> 32) & _WORD
    a = _mix((indices & _WORD) ^ _mix(low ^ 0x5BD1E995))
    b = _mix(a ^ _mix((indices >> 32) ^ high ^ 0x3C6EF372))
    d = torch.arange(draws, device=indices.device) * _GOLDEN
    return _mix(_mix(a[:, None] + d & _WORD) ^ b[:, None])


def at(key: Tensor, *place: Tensor) -> Tensor:
    """32 random bits for each key and place of a grid.

    Args:
        key: 32 random bits, int64.
        place: coordinates, any int64 of magnitudes below 2^31; all tensors broadcast.
    """
    for coordinate in place:
        key = _mix(_mix(coordinate & _WORD) + key & _WORD)
    return key


def below(u: Tensor, n: Tensor | int) -> Tensor:
    """Uniform integers in [0, n) from 32 random bits ``u``, with n at most 2^31."""
    return u * n >> 32


def permutation(seed: int, n: int, draw: int) -> Tensor:
    """Random permutation number ``draw`` of 0 to n - 1, ``(n,)`` int64."""
    # (seed, draw) keys a new stream with one index per item
    key = int(bits(seed, torch.tensor([draw]), 1)) | (seed & _WORD) << 32
    return torch.argsort(bits(key, torch.arange(n), 1)[:, 0], stable=True)
