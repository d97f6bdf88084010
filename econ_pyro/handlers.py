"""Effect handlers over the prior program."""

from __future__ import annotations

from typing import Any

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
