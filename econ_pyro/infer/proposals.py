"""What each expert proposes for a layer: region, latent, appearance and shape, with Eqs. 10-12."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.accel.compile import compilable
from econ_pyro.core.distributions import MeanBernoulli, pixel_errors
from econ_pyro.infer.protocols import Guide, Model
from econ_pyro.infer.terms import Terms


class Proposals(NamedTuple):
    """What each of K experts makes of the scope; all fields ``(B, K, ...)``.

    Those of several layers at once are ``(B, T, K, ...)``.
    """

    r: Tensor
    mean: Tensor
    shape: Tensor
    z: Tensor
    errors: Tensor
    """:func:`~econ_pyro.core.distributions.pixel_errors` of the appearances."""
    terms: Terms

    def of(self, k: Tensor) -> Proposals:
        """Those of expert k[b] for image b, or of k[b, t] for its layer t, as ``(B, ...)``."""
        rows = torch.arange(k.shape[0], device=k.device)  # len() would fix an export's batch
        if k.dim() == 1:
            return self.map(lambda a: a[rows, k])
        layers = torch.arange(k.shape[1], device=k.device)
        return self.map(lambda a: a[rows[:, None], layers, k])

    def map(self, f: Callable[[Tensor], Tensor]) -> Proposals:
        """The same function of each field and term."""
        r, mean, shape, z, errors = map(f, self[:5])
        return Proposals(r, mean, shape, z, errors, self.terms.map(f))


@torch.no_grad()
def propose(
    model: Model,
    guide: Guide,
    x: Tensor,
    s_t: Tensor,
    noise: Tensor,
    r_t: Tensor | None = None,
) -> Proposals:
    """Attend, encode, decode and score one layer by all experts.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        noise: of the latent, ``(B, L)``; zeros give the posterior mean.
        r_t: the region, where attention has no say (the last layer, true regions),
            ``(B, 1, H, W)``; or each expert's, ``(B, K, 1, H, W)``. If not given, each expert's
            attention proposes one.
    """
    if r_t is None:
        r = guide.attend_all(x, s_t)
    elif r_t.dim() == 5:
        r = r_t
    else:
        r = r_t[:, None].expand(-1, model.num_experts, -1, -1, -1)
    q_z = guide.encode_all(x, r, noise)  # batch (B, K)
    z = q_z.rsample()
    mean, shape = model.decode_all(z)
    errors = pixel_errors(x, mean, model.sigma_x)
    l_x, l_r = visible_terms(model, s_t[:, None], r, errors, shape)
    l_z = kl_divergence(q_z, model.latent_prior(*r.shape[:2]))
    return Proposals(r, mean, shape, z, errors, Terms(l_x, l_z, l_r))


@torch.no_grad()
def propose_layers(
    model: Model,
    guide: Guide,
    x: Tensor,
    scope: Tensor,
    noise: Tensor,
    r: Tensor,
) -> Proposals:
    """Several layers at once, whose regions are known: :func:`propose` with an axis T.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        scope: of each layer, ``(B, T, 1, H, W)``.
        noise: of the latents, ``(B, T, L)``.
        r: regions, ``(B, T, 1, H, W)``, or each expert's, ``(B, T, K, 1, H, W)``.
    """
    steps = r.shape[1]
    xs = x.repeat_interleave(steps, 0)
    s_t, of_layers, r_t = (a.flatten(0, 1) for a in (scope, noise, r))
    proposals = propose(model, guide, xs, s_t, of_layers, r_t)
    return proposals.map(lambda a: a.unflatten(0, (-1, steps)))


@compilable
def visible_terms(
    model: Model, scope: Tensor, r: Tensor, errors: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor]:
    """L_x and L_r (Eqs. 10, 12) of decoded layers, in any scope, ``(...)`` nats.

    Args:
        model: p.
        scope: of each layer, ``(..., 1, H, W)``.
        r: regions, ``(..., 1, H, W)``.
        errors: :func:`~econ_pyro.core.distributions.pixel_errors`, ``(..., 1, H, W)``.
        shape: shape probabilities, ``(..., 1, H, W)``.
    """
    q_r = MeanBernoulli(r).to_event(3)
    l_r = kl_divergence(q_r, model.region_prior(scope, shape))
    return (r * errors).sum((-3, -2, -1)), l_r


@compilable
def drawn_terms(
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
    return visible_terms(model, scope, r, pixel_errors(x, mean, model.sigma_x), shape)
