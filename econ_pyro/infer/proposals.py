"""What each expert makes of a layer: a region, a latent, a drawing, and their cost.

Model and guide come from outside, as in Pyro's own SVI; the two protocols say what they must do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.accel.compile import fused
from econ_pyro.core.distributions import MeanBernoulli, pixel_errors
from econ_pyro.infer.terms import Terms


class Generator(Protocol):
    """What the engine needs of p: :class:`econ_pyro.models.dead_leaves.DeadLeaves`."""

    def decode(self, z_t: Tensor, k_t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and shape by each image's own expert."""

    def decode_all(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and shape by every expert."""

    def latent_prior(self, *batch: int) -> TorchDistribution:
        """p(z)."""

    def region_prior(self, s_t: Tensor, shape: Tensor) -> TorchDistribution:
        """Eq. 7."""


class Recogniser(Protocol):
    """What the engine needs of q: :class:`econ_pyro.guides.recognition.Recognition`."""

    seeded: bool
    """Whether regions grow from seeds, for which all experts compete."""

    def attend(self, x: Tensor, s_t: Tensor, k_t: Tensor, seed: Tensor | None) -> Tensor:
        """Region that each image's own expert proposes, from a seed where there are seeds."""

    def regions(self, x: Tensor, k: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Scopes and regions of all layers at once, where regions grow from seeds."""

    def encode(
        self,
        x: Tensor,
        r_t: Tensor,
        k_t: Tensor,
        noise: Tensor | None,
        occluder: Tensor | None,
    ) -> TorchDistribution:
        """q(z) by each image's own expert, which may see something in front of the region."""

    def attend_all(self, x: Tensor, s_t: Tensor) -> Tensor:
        """Region that every expert proposes."""

    def encode_all(self, x: Tensor, r: Tensor, noise: Tensor) -> TorchDistribution:
        """q(z) by every expert, of its own region."""

    def candidates(self, x: Tensor, s_t: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Seeds of n things to take and all experts' regions, where there are seeds."""


@dataclass(frozen=True)
class Rules:
    """How winners are drawn.

    Args:
        experts: number of experts K.
        steps: number of layers T.
        sigma_x: standard deviation of the pixels.
        lam: weight lambda of L_x.
        temperature: tau in nats; 0 takes the best.
        ordered: with seeds, put the layers in the order that makes the image likeliest before the
            experts compete for each; else the most salient comes first.
    """

    experts: int
    steps: int
    sigma_x: float
    lam: float = 1.0
    temperature: float = 0.0
    ordered: bool = False


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
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    s_t: Tensor,
    noise: Tensor,
    rules: Rules,
    r_t: Tensor | None = None,
) -> Proposals:
    """Attend, encode, decode and score one layer by all experts.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        noise: of the latent, ``(B, L)``; zeros give the posterior mean.
        rules: number of experts and sigma; the rest plays no part.
        r_t: the region, ``(B, 1, H, W)``, where it is not for the attention to choose: the last
            step, true regions; or each expert's, ``(B, K, 1, H, W)``, where it has been asked.
    """
    if r_t is None:
        r = guide.attend_all(x, s_t)
    elif r_t.dim() == 5:
        r = r_t
    else:
        r = r_t[:, None].expand(-1, rules.experts, -1, -1, -1)
    q_z = guide.encode_all(x, r, noise)  # batch (B, K)
    z = q_z.rsample()
    mean, shape = model.decode_all(z)
    errors = pixel_errors(x, mean, rules.sigma_x)
    l_x, l_r = visible_terms(model, s_t[:, None], r, errors, shape)
    l_z = kl_divergence(q_z, model.latent_prior(*r.shape[:2]))
    return Proposals(r, mean, shape, z, errors, Terms(l_x, l_z, l_r))


@torch.no_grad()
def propose_layers(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    scope: Tensor,
    noise: Tensor,
    rules: Rules,
    r: Tensor,
) -> Proposals:
    """Several layers at once, whose regions are known: :func:`propose` with an axis T.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        scope: of each layer, ``(B, T, 1, H, W)``.
        noise: of the latents, ``(B, T, L)``.
        rules: number of experts and sigma.
        r: regions, ``(B, T, 1, H, W)``, or each expert's, ``(B, T, K, 1, H, W)``.
    """
    steps = r.shape[1]
    xs = x.repeat_interleave(steps, 0)
    s_t, of_layers, r_t = (a.flatten(0, 1) for a in (scope, noise, r))
    proposals = propose(model, guide, xs, s_t, of_layers, rules, r_t)
    return proposals.map(lambda a: a.unflatten(0, (-1, steps)))


@fused
def visible_terms(
    model: Generator, scope: Tensor, r: Tensor, errors: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor]:
    """L_x and L_r (Eqs. 10, 12) of layers that have been drawn, in any scope, ``(...)`` nats.

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


@fused
def drawn_terms(
    model: Generator,
    x: Tensor,
    scope: Tensor,
    r: Tensor,
    mean: Tensor,
    shape: Tensor,
    sigma_x: float,
) -> tuple[Tensor, Tensor]:
    """L_x and L_r of all layers of images, by what was drawn of them, ``(B, T)`` nats each.

    Args:
        model: p.
        x: images, ``(B, 3, H, W)``.
        scope: of each layer, ``(B, T, 1, H, W)``.
        r: regions, alike.
        mean: appearances, ``(B, T, 3, H, W)``.
        shape: shape probabilities, ``(B, T, 1, H, W)``.
        sigma_x: standard deviation of the pixels.
    """
    return visible_terms(model, scope, r, pixel_errors(x, mean, sigma_x), shape)
