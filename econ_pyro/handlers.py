"""Ways to run programs: without pixel noise, and from a seed of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger


class CleanLayers(Messenger):
    """Paint without pixel noise: the most likely shape and the mean appearance of each layer.

    ``with CleanLayers(): model.prior(8)`` still draws classes and latents. The pixel noise of
    Eq. 5 and the independent coin of each shape's pixel (Eq. 4) are likelihoods to learn with,
    not pictures to look at.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        if msg["name"].startswith("m_"):
            msg["value"], msg["done"] = msg["fn"].mean.round(), True
        elif msg["name"].startswith("x_"):
            msg["value"], msg["done"] = msg["fn"].mean, True


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from a seed of one's own, and leave the global generators as they were.

    Args:
        seed: None draws from the global generators, as ever.
        device: whose generator counts beside the CPU's.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
