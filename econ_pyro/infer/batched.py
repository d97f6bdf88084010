r"""The class-conditional ELBO of all layers at once: the same numbers without a trace.

It is read off :func:`~econ_pyro.infer.reconstruction.account`. A program whose posterior or prior
is another has to be traced: :class:`~econ_pyro.infer.elbo.ClassConditionalELBO` is the reference,
and the tests hold this to it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from econ_pyro.infer.elbo import ClassConditionalELBO
from econ_pyro.infer.reconstruction import account
from econ_pyro.infer.terms import Terms


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
        model: Any,
        guide: Any,
        x: Tensor,
        k: Tensor,
        noise: Tensor | None = None,
        regions: Tensor | None = None,
        seeds: Tensor | None = None,
        occluders: Tensor | None = None,
    ) -> Terms:
        return account(model, guide, x, k, self.sigma_x, noise, regions, seeds, occluders).terms
