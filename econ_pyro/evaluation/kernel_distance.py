r"""Kernel inception distance (Binkowski et al., 2018) of any features of two sets of images.

The squared maximum mean discrepancy with the kernel :math:`k(a, b) = (a \cdot b / D + 1)^3`, of
which the unbiased estimate over n features a and m features b is

.. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} k(a_i, a_j)
          + \frac{1}{m (m - 1)} \sum_{i \ne j} k(b_i, b_j)
          - \frac{2}{n m} \sum_{i, j} k(a_i, b_j)

and may be negative. KID is its mean over subsets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from econ_pyro.errors import EconError

Features = Callable[[Tensor], Tensor]
"""Images ``(n, 3, H, W)`` in [0, 1] to features ``(n, D)``."""
SUBSETS, SUBSET_SIZE = 10, 500


def squared_discrepancy(a: Tensor, b: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy.

    Args:
        a: features, ``(n, D)``.
        b: features, ``(m, D)``.

    Raises:
        EconError: there are fewer than two of each, or their sizes differ.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise EconError("at least two features (n, D) of each set, of one size", got)
    a, b = a.double(), b.double()
    within = sum(_off_diagonal_mean(_kernel(x, x)) for x in (a, b))
    return within - 2 * float(_kernel(a, b).mean())


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> float:
    """KID: the mean of :func:`squared_discrepancy` over random subsets of both sets.

    Args:
        a: features, ``(n, D)``.
        b: features, ``(m, D)``.
        subsets: number of subsets.
        size: number of features of each set in a subset; all, if there are fewer.
        seed: of the subsets.

    Raises:
        EconError: as :func:`squared_discrepancy`.
    """
    generator, found = Generator().manual_seed(seed), []
    for _ in range(subsets):
        parts = [x[torch.randperm(len(x), generator=generator)[:size]] for x in (a, b)]
        found.append(squared_discrepancy(*parts))
    return sum(found) / len(found)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT / a.shape[1] + 1) ** 3


def _off_diagonal_mean(k: Tensor) -> float:
    return float((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)))
