r"""The class-conditional ELBO of all layers at once: the same numbers without a trace.

Only the regions need their turn, as each scope is what the nearer layers left. Given them, the T
layers of B images are encoded, decoded and scored as one batch of B T, so that each expert runs
once a step for all that it won. A program whose posterior or prior is another has to be traced:
:class:`~econ_pyro.elbo.ClassConditionalELBO` is the reference, and the tests hold this to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from econ_pyro.distributions import LayeredNormal, MeanBernoulli
from econ_pyro.elbo import ClassConditionalELBO
from econ_pyro.layers import fixed_region, next_scope
from econ_pyro.proposals import Generator, Recogniser
from econ_pyro.terms import Terms, layer_terms


class BatchedELBO(ClassConditionalELBO):
    """Eq. 13 for given classes, for the model and guide of this package.

    Args:
        sigma_x: standard deviation of the pixels.
        beta: weight of L_z.
        gamma: weight of L_r; may be set between steps.
    """

    def __init__(self, sigma_x: float, beta: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__(beta, gamma)
        self.sigma_x = sigma_x

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Terms:
        """As the trace gives them: arguments are those of model and guide."""
        return self._terms(model, guide, *args, **kwargs)

    def _terms(
        self,
        model: Generator,
        guide: Recogniser,
        x: Tensor,
        k: Tensor,
        noise: Tensor | None = None,
        regions: Tensor | None = None,
        seeds: Tensor | None = None,
    ) -> Terms:
        scope, r = _layers(guide, x, k, regions, seeds)  # (B, T, 1, H, W)
        n, steps = k.shape
        of_layers = k.flatten()
        images = x[:, None].expand(-1, steps, -1, -1, -1)
        flat_noise = None if noise is None else noise.flatten(0, 1)
        q_z = guide.encode(images.flatten(0, 1), r.flatten(0, 1), of_layers, flat_noise)
        mean, shape = model.decode(q_z.rsample(), of_layers)
        error = LayeredNormal(r, mean.unflatten(0, (n, steps)), self.sigma_x).squared_error(x)
        s, r = scope.flatten(0, 1), r.flatten(0, 1)
        q_r, p_r = MeanBernoulli(r).to_event(3), model.region_prior(s, shape)
        terms = layer_terms(error.flatten(), q_z, model.latent_prior(len(r)), q_r, p_r)
        return terms.map(lambda a: a.unflatten(0, (n, steps)))


def _layers(
    guide: Recogniser, x: Tensor, k: Tensor, regions: Tensor | None, seeds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scope and region of every layer, front to back (Eqs. 9 and 14)."""
    s_t, scopes, taken = torch.ones_like(x[:, :1]), [], []
    for i in range(k.shape[1]):
        r_t = fixed_region(s_t, i, k.shape[1], regions)
        if r_t is None:
            r_t = guide.attend(x, s_t, k[:, i], None if seeds is None else seeds[:, i])
        scopes.append(s_t)
        taken.append(r_t)
        s_t = next_scope(s_t, r_t)
    return torch.stack(scopes, 1), torch.stack(taken, 1)
