r"""The class-conditional ELBO (Eqs. 10-13) as a Pyro ``ELBO``.

Of a layer t with scope s, region r, shape m, appearance mu and posterior q(z), in nats:

.. math::
    L_x = \sum_i r_i \|x_i - \mu_i\|^2 / 2 \sigma^2, \quad
    L_z = KL(q(z) \| N(0, I)), \quad
    L_r = \sum_i KL(Bern(r_i) \| Bern(s_i m_i))

(Eqs. 10-12), and of the layers of an image, with their experts k (Eq. 13):

.. math:: L(k) = -\sum_t (L_{x,t} + \beta L_{z,t} + \gamma L_{r,t})

Training maximises Eq. 13; the competition ranks experts by lambda L_x + L_r (section 5.2), from
the same :class:`Terms`. They are computed in two ways that agree: :class:`ClassConditionalELBO`
reads them off a trace of the guide and of the model replayed against it; :class:`BatchedELBO`,
which training uses, calls :func:`reconstruct`.

The objective departs from Pyro's own ELBOs in three ways: KLs of z and r are analytic, with the
region's sample its mean (section 5.1), which ``TraceMeanField_ELBO`` forbids because the guide
draws r before z and the model z before r; the image's term is the squared error without its
constant; and the loss is a mean over scenes, so that it does not depend on the size of the batch.

Regions may be observed: of a guide under ``poutine.condition(guide, data={"r_4": mask})``, the
layer's region is that mask, in the model too, and its L_r is KL(mask || s m).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.util import check_model_guide_match
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.accel.compile import compilable
from econ_pyro.core import sites
from econ_pyro.core.distributions import LayeredNormal, MeanBernoulli, pixel_errors
from econ_pyro.infer.protocols import GivenGuide, Model


class Terms(NamedTuple):
    """Terms of Eqs. 10-12 in nats, of equal shape, usually ``(B,)`` or ``(B, T)``."""

    x: Tensor
    """Eq. 10: the error of the region's pixels."""
    z: Tensor
    """Eq. 11: KL of the latent."""
    r: Tensor
    """Eq. 12: KL of the region."""

    def loss(self, beta: float, gamma: float | Tensor) -> Tensor:
        """Eq. 13, negated: what is minimised."""
        return self.x + beta * self.z + gamma * self.r

    def competition_loss(self, lam: float) -> Tensor:
        """Section 5.2: what experts compete on, lower is better."""
        return lam * self.x + self.r

    def map(self, f: Callable[[Tensor], Tensor]) -> Terms:
        """The same function of each term."""
        return Terms(*(f(term) for term in self))


def stack(terms: list[Terms], dim: int) -> Terms:
    """Stack layers or experts along a new axis."""
    return Terms(*(torch.stack(parts, dim) for parts in zip(*terms, strict=True)))


class ClassConditionalELBO(ELBO):
    """Eq. 13 for given classes.

    Args:
        beta: weight of L_z.
        gamma: weight of L_r; may be set between steps.
        smallest_region: pixels. A layer whose region is smaller has no terms: nothing is learnt
            from it.
    """

    def __init__(
        self, beta: float = 1.0, gamma: float | Tensor = 1.0, smallest_region: int = 0
    ) -> None:
        super().__init__(num_particles=1)
        self.beta, self.gamma, self.smallest_region = beta, gamma, smallest_region

    def terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Terms:
        """Terms of Eqs. 10-12 of every layer, ``(B, T)`` each, front to back, differentiable."""
        p, q = self._get_trace(model, guide, args, kwargs)
        likelihood: Any = p.nodes[sites.IMAGE]["fn"]
        while not isinstance(likelihood, LayeredNormal):  # inside Independent or Expanded
            likelihood = likelihood.base_dist
        image: Any = p.nodes[sites.IMAGE]["value"]
        l_x = likelihood.errors(image)  # Eq. 10, (B, T)
        layers = []
        for i, t in enumerate(sites.front_to_back(l_x.shape[-1])):
            fns: list[Any] = [
                trace.nodes[site]["fn"] for site in (sites.z(t), sites.r(t)) for trace in (q, p)
            ]
            q_z, p_z, q_r, p_r = fns
            if sites.r(t) in q.observation_nodes:
                q_r = MeanBernoulli(_value(q, sites.r(t))).to_event(3)
            l_z = kl_divergence(q_z, p_z)  # Eq. 11
            l_r = kl_divergence(q_r, p_r)  # Eq. 12
            terms = Terms(l_x[..., i], l_z, l_r)
            layers.append(self.present(terms, _value(q, sites.r(t))))
        return stack(layers, -1)

    def present(self, terms: Terms, region: Tensor) -> Terms:
        """Terms of layers, ``(...)``; 0 where the region, ``(..., 1, H, W)``, is too small."""
        if not self.smallest_region:
            return terms
        there = region.detach().sum((-3, -2, -1)) >= self.smallest_region
        return terms.map(lambda term: term * there)

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

    For the model and guide of this package, by :func:`reconstruct`. Programs whose posterior or
    prior is another, or under handlers, have to be traced: :class:`ClassConditionalELBO` is the
    reference, and the tests hold this one to it.
    """

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Terms:
        """As the trace gives them, ``(B, T)`` each."""
        if not (hasattr(guide, "regions") and hasattr(model, "decode")):  # handlers around them
            return super().terms(model, guide, *args, **kwargs)
        layers = reconstruct(model, guide, *args, **kwargs)
        return self.present(layers.terms, layers.region)


class Layers(NamedTuple):
    """Layers of B images, front to back, differentiable; fields as in a Decomposition."""

    scope: Tensor
    """``(B, T, 1, H, W)``."""
    region: Tensor
    """``(B, T, 1, H, W)``."""
    mean: Tensor
    """``(B, T, 3, H, W)``."""
    shape: Tensor
    """``(B, T, 1, H, W)``."""
    z: Tensor
    """``(B, T, L)``."""
    terms: Terms
    """Eqs. 10-12, ``(B, T)`` each."""


def reconstruct(model: Model, guide: GivenGuide, x: Tensor, k: Tensor) -> Layers:
    """Explain each layer by the expert that is given for it, and score it.

    Only the regions have to be computed one after another, as each scope is what the nearer layers
    left (from seed pixels, no network waits for it). Given them, the T layers of B images are
    encoded, decoded and scored as one batch of B T, so that each expert runs once.

    Args:
        model: p.
        guide: q, with or without what a competition has fixed.
        x: images, ``(B, 3, H, W)``.
        k: expert of each layer, front to back, ``(B, T)``.
    """
    slots = k.shape[1]
    scope, r = guide.regions(x, k)
    q_z = guide.posteriors(x, r, k)  # batch (B T,)
    z = q_z.rsample()
    mean, shape = model.decode(z, k.flatten())
    l_z = kl_divergence(q_z, model.latent_prior(z.shape[0]))  # Eq. 11
    mean, shape, z, l_z = (a.unflatten(0, (-1, slots)) for a in (mean, shape, z, l_z))
    l_x, l_r = decoded_terms(model, x, scope, r, mean, shape)  # Eqs. 10 and 12
    return Layers(scope, r, mean, shape, z, Terms(l_x, l_z, l_r))


@compilable
def pixel_terms(
    model: Model, scope: Tensor, r: Tensor, errors: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor]:
    """L_x and L_r (Eqs. 10, 12): the terms that are sums over pixels, ``(...)`` nats.

    Args:
        model: p.
        scope: of each layer, ``(..., 1, H, W)``.
        r: regions, ``(..., 1, H, W)``.
        errors: :func:`~econ_pyro.core.distributions.pixel_errors`, ``(..., 1, H, W)``.
        shape: shape probabilities, ``(..., 1, H, W)``.
    """
    l_x = (r * errors).sum((-3, -2, -1))  # Eq. 10
    p_r = model.region_prior(scope, shape)  # Bern(s m), Eq. 7
    l_r = kl_divergence(MeanBernoulli(r).to_event(3), p_r)  # Eq. 12
    return l_x, l_r


@compilable
def decoded_terms(
    model: Model,
    x: Tensor,
    scope: Tensor,
    r: Tensor,
    mean: Tensor,
    shape: Tensor,
) -> tuple[Tensor, Tensor]:
    """L_x and L_r of all layers of images, from what was decoded, ``(B, T)`` nats each.

    Args:
        model: p.
        x: images, ``(B, 3, H, W)``.
        scope: of each layer, ``(B, T, 1, H, W)``.
        r: regions, alike.
        mean: appearances, ``(B, T, 3, H, W)``.
        shape: shape probabilities, ``(B, T, 1, H, W)``.
    """
    return pixel_terms(model, scope, r, pixel_errors(x, mean, model.pixel_noise), shape)


def _value(trace: poutine.Trace, name: str) -> Any:
    return trace.nodes[name]["value"]
