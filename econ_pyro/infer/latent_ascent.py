"""Latents moved up the gradient of what all layers together explain.

Encoders see one layer each (semi-amortised inference: Kim et al., 2018). An object that is partly
hidden, or of a size or shade that its encoder has mistaken a little, is drawn too small or too
dark for the others' order to come out right.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.mixture import Mixture, log_evidence
from econ_pyro.infer.protocols import Model

RATE = 0.03  # of the steps of latents, whose standard deviation is 1


@torch.no_grad()
def ascend(
    model: Model, d: Decomposition, kept: Tensor, mixture: Mixture, steps: int
) -> Decomposition:
    """The layers at latents that have taken steps up the gradient of the log evidence.

    Adam's steps need no common scale of the latents. Of all latents on the way, the first ones
    included, the likeliest are kept in each image.

    Args:
        model: p.
        d: layers front to back; the regions stay as they are.
        kept: which of them explain something, ``(B, T)`` bool.
        mixture: what the pixels are.
        steps: number of steps.
    """
    z, best = d.z.clone().requires_grad_(), d.z

    def evidence(d: Decomposition) -> Tensor:
        # corrected colours would leave those that are drawn to the prior alone
        return log_evidence(d, kept, model.pixel_noise, mixture, as_drawn=True)

    likely = evidence(d)
    optim = torch.optim.Adam([z], RATE)
    for _ in range(steps + 1):
        with torch.enable_grad():
            found = evidence(_drawn_at(model, d, z))
            (gradient,) = torch.autograd.grad(-found.sum(), z)
        z.grad = gradient * kept[:, :, None]  # Adam makes large steps of small gradients
        found = found.detach()
        best = torch.where((found > likely)[:, None, None], z.detach(), best)
        likely = likely.maximum(found)
        optim.step()
    return _drawn_at(model, d, best)


def _drawn_at(model: Model, d: Decomposition, z: Tensor) -> Decomposition:
    """The layers as they are drawn at other latents, ``(B, T, L)``, at the KL of a moved mean."""
    mean, shape = model.decode(z.transpose(0, 1), d.k.T)
    kl = d.terms.z + (z.square() - d.z.square()).sum(2) / 2
    terms = d.terms._replace(z=kl)
    return replace(d, z=z, mean=mean.transpose(0, 1), shape=shape.transpose(0, 1), terms=terms)
