r"""The class-conditional ELBO (Eqs. 10-13) as a Pyro ``ELBO``.

.. math:: L(k) = -\sum_t (L_{x,t} + \beta L_{z,t} + \gamma L_{r,t})

read off a trace of the guide and the model replayed against it. It departs from Pyro's own ELBOs
in three ways: KLs of z and r are analytic, with the region's sample its mean (section 5.1), which
``TraceMeanField_ELBO`` forbids because the guide draws r before z and the model z before r; the
image's term is the squared error without its constant; and the loss is a mean over scenes, so that
it does not depend on the size of the batch.

Regions may be observed: of a guide under ``poutine.condition(guide, data={"r_4": mask})``, the
layer's region is that mask, in the model too, and its L_r is KL(mask || s m).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.util import check_model_guide_match
from torch import Tensor

from econ_pyro.core import sites
from econ_pyro.core.distributions import LayeredNormal, MeanBernoulli
from econ_pyro.infer.reconstruction import reconstruct
from econ_pyro.infer.terms import Terms, layer_terms, stack


class ClassConditionalELBO(ELBO):
    """Eq. 13 for given classes.

    Args:
        beta: weight of L_z.
        gamma: weight of L_r; may be set between steps.
    """

    def __init__(self, beta: float = 1.0, gamma: float | Tensor = 1.0) -> None:
        super().__init__(num_particles=1)
        self.beta, self.gamma = beta, gamma

    def terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Terms:
        """Terms of Eqs. 10-12 of every layer, ``(B, T)`` each, front to back, differentiable."""
        p, q = self._get_trace(model, guide, args, kwargs)
        likelihood: Any = p.nodes[sites.IMAGE]["fn"]
        while not isinstance(likelihood, LayeredNormal):  # inside Independent or Expanded
            likelihood = likelihood.base_dist
        image: Any = p.nodes[sites.IMAGE]["value"]
        errors = likelihood.squared_error(image)  # (B, T)
        observed = q.observation_nodes
        layers = []
        for i, t in enumerate(sites.front_to_back(errors.shape[-1])):
            fns: list[Any] = [
                trace.nodes[name]["fn"] for name in (sites.z(t), sites.r(t)) for trace in (q, p)
            ]
            if sites.r(t) in observed:
                fns[2] = MeanBernoulli(_value(q, sites.r(t))).to_event(3)
            layers.append(layer_terms(errors[..., i], *fns))
        return stack(layers, -1)

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[poutine.Trace, poutine.Trace]:
        # get_importance_trace would also score every site, and no score is used here
        q = poutine.trace(guide).get_trace(*args, **kwargs)
        observed: Any = {name: _value(q, name) for name in q.observation_nodes}
        drawn = q.copy()
        for name in observed:
            drawn.remove_node(name)
        with_evidence = poutine.condition(model, data=observed)
        p = poutine.trace(poutine.replay(with_evidence, trace=drawn)).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(p, drawn)
        return p, q

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Mean over scenes of Eq. 13 negated, in nats, a scalar."""
        return self.loss_of(self.terms(model, guide, *args, **kwargs))

    def loss_of(self, terms: Terms) -> Tensor:
        """The same of terms, ``(B, T)`` each."""
        return terms.loss(self.beta, self.gamma).sum(dim=-1).mean()

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The same as a number."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The same as a number, leaving gradients in the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()


class BatchedELBO(ClassConditionalELBO):
    """The same numbers without a trace, all layers in one batch.

    For the model and guide of this package (:mod:`econ_pyro.infer.reconstruction`). Programs whose
    posterior or prior is another, or under handlers, have to be traced:
    :class:`ClassConditionalELBO` is the reference, and the tests hold this one to it.
    """

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Terms:
        """As the trace gives them, ``(B, T)`` each."""
        if not (hasattr(guide, "regions") and hasattr(model, "decode")):  # handlers around them
            return super().terms(model, guide, *args, **kwargs)
        return reconstruct(model, guide, *args, **kwargs).terms


def _value(trace: poutine.Trace, name: str) -> Any:
    return trace.nodes[name]["value"]
