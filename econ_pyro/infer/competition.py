r"""Competition of experts (section 5.2): greedy, O(K T).

Front to back, all K experts propose an explanation of the remaining scope s (:func:`propose`); one
wins (:func:`draw_winners`) with

.. math:: P(k) \propto \exp(-(\lambda L_x(k) + L_r(k)) / \tau)

and the scope shrinks by its region, :math:`s_{t-1} = s_t - r_t` (Eq. 14). tau = 1 is the paper,
tau = 0 selects the best. No gradient is computed here: training sees only the winners, through the
ELBO.

Each strategy is a class of its own: :class:`GreedyCompetition`, below, is the paper's,
:mod:`~econ_pyro.infer.joint_competition` is the recipe's,
:mod:`~econ_pyro.infer.oracle_competition` is given true regions,
:mod:`~econ_pyro.infer.exhaustive` searches all K^T assignments, and
:mod:`~econ_pyro.infer.refinement` refines what any of them found.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.core.compositing import next_scope
from econ_pyro.core.distributions import pixel_errors
from econ_pyro.core.occlusion import draw_occluders
from econ_pyro.core.selection import Draws, Selection, draw_gumbel
from econ_pyro.core.tensors import fitted
from econ_pyro.errors import EconError
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms, pixel_terms, stack
from econ_pyro.infer.protocols import Guide, Model


class Contest(NamedTuple):
    """What competed, and the noise of each layer's latent."""

    layers: Decomposition
    noise: Tensor
    """``(B, T, L)``."""


@dataclass
class Competition(ABC):
    """Selects an expert for each layer of each image.

    Args:
        num_slots: number of layers T.
        lam: weight lambda of L_x.
        temperature: tau in nats; 0 selects the best.
        expert_bias: nats added to each expert's losses before winners are drawn, ``(K,)``.
        occlusion: share of the layers that winners learn from partly hidden
            (:mod:`econ_pyro.core.occlusion`); 0 is the paper.
    """

    num_slots: int
    lam: float = 1.0
    temperature: float = 1.0
    expert_bias: Tensor | None = None
    occlusion: float = 0.0

    takes_evidence: ClassVar[bool] = False
    fixes_seed_pixels: ClassVar[bool] = False

    def __call__(
        self,
        model: Model,
        guide: Any,
        x: Tensor,
        evidence: Tensor | None = None,
        draws: Draws | None = None,
    ) -> Selection:
        """Let the experts compete.

        Args:
            model: p.
            guide: q.
            x: images, ``(B, 3, H, W)`` in [0, 1].
            evidence: true regions, ``(B, T, 1, H, W)``, for a competition that takes them.
            draws: random numbers; drawn if not given.

        Raises:
            EconError: shapes do not fit.
        """
        draws = self.draw(model, len(x), x) if draws is None else draws
        d, noise = self.contest(model, guide, x, draws, evidence)
        occluder = None
        if draws.occlusion is not None:
            occluder = draw_occluders(x, d.region, draws.occlusion, self.occlusion)
        seed_pixel = d.seed_pixel if self.fixes_seed_pixels else None
        losses = d.competition_losses
        return Selection(d.k, noise, seed_pixel, losses, d.region, evidence, occluder)

    @torch.no_grad()
    def contest(
        self,
        model: Model,
        guide: Any,
        x: Tensor,
        draws: Draws,
        evidence: Tensor | None = None,
    ) -> Contest:
        """The layers as they competed; arguments as of a call."""
        self._check(model, x, draws, evidence)
        return self._contest(model, guide, x, draws, evidence)

    @abstractmethod
    def _contest(
        self, model: Any, guide: Any, x: Tensor, draws: Draws, evidence: Tensor | None
    ) -> Contest:
        """The strategy."""

    @torch.no_grad()
    def decompose(
        self,
        model: Model,
        guide: Any,
        x: Tensor,
        evidence: Tensor | None = None,
        draws: Draws | None = None,
    ) -> Decomposition:
        """Explain images by the winners, as the ELBO does.

        Args:
            model: p.
            guide: q.
            x: images, ``(B, 3, H, W)`` in [0, 1].
            evidence: true regions, ``(B, T, 1, H, W)``, for a competition that takes them.
            draws: random numbers; without, posterior means and the best experts.
        """
        if draws is None:
            draws, best = self._means(model, x), replace(self, temperature=0.0, expert_bias=None)
            return best.explain(model, guide, x, draws, evidence)
        return self.explain(model, guide, x, draws, evidence)

    def explain(
        self, model: Model, guide: Any, x: Tensor, draws: Draws, evidence: Tensor | None = None
    ) -> Decomposition:
        """The winners' explanation: here, what they competed with."""
        return self.contest(model, guide, x, draws, evidence).layers

    def draw(self, model: Model, n: int, like: Tensor) -> Draws:
        """Random numbers for n images, of the type and on the device of ``like``."""
        kind: Any = {"dtype": like.dtype, "device": like.device}
        noise = torch.randn(n, self.num_slots, model.latent_dim, **kind)
        gumbel = draw_gumbel((n, self.num_slots, model.num_experts), like)
        uniform = torch.rand(n, self.num_slots, 4, **kind) if self.occlusion else None
        return Draws(noise, gumbel, uniform)

    def _means(self, model: Model, x: Tensor) -> Draws:
        """Zero noise and zero Gumbel noise: posterior means and the best experts."""
        noise = x.new_zeros(x.shape[0], self.num_slots, model.latent_dim)
        return Draws(noise, x.new_zeros(x.shape[0], self.num_slots, model.num_experts))

    def _winners(self, losses: Tensor, gumbel: Tensor) -> Tensor:
        return draw_winners(losses, self.temperature, self.expert_bias, gumbel)

    def _check(self, model: Model, x: Tensor, draws: Draws, evidence: Tensor | None) -> None:
        """Check that what torch would broadcast, or leave out in part, is of all layers of x."""
        layers, experts = (x.shape[0], self.num_slots), model.num_experts
        fitted("noise", draws.noise, (*layers, draws.noise.shape[-1]), x)
        fitted("gumbel", draws.gumbel, (*layers, experts), x)
        if self.expert_bias is not None:
            fitted("expert_bias", self.expert_bias, (experts,), x)
        if self.takes_evidence != (evidence is not None):
            kind = type(self).__name__
            expected = "true regions" if self.takes_evidence else "no true regions"
            raise EconError(f"{expected} for {kind}", "none" if evidence is None else "some")
        if evidence is not None:
            fitted("evidence", evidence, (*layers, 1, *x.shape[2:]), x)


@dataclass
class GreedyCompetition(Competition):
    """Section 5.2, layer by layer, each in the scope that the winners before it left."""

    def _contest(
        self, model: Model, guide: Guide, x: Tensor, draws: Draws, evidence: Tensor | None
    ) -> Contest:
        s_t = torch.ones_like(x[:, :1])  # s_T = 1
        layers, terms = [], []
        for i in range(self.num_slots):
            left = self.num_slots - 1 - i  # the last layer takes the whole scope (footnote 7)
            proposals = propose(model, guide, x, s_t, draws.noise[:, i], None if left else s_t)
            losses = self._losses(model, guide, x, s_t, proposals, left)  # (B, K)
            k_hat = self._winners(losses, draws.gumbel[:, i])
            won = proposals.of(k_hat)
            layers.append((k_hat, s_t, won.r, won.mean, won.shape, won.z, losses))
            terms.append(won.terms)
            s_t = next_scope(s_t, won.r)  # Eq. 14
        k, s, r, mean, shape, z, losses = (torch.stack(a, 1) for a in zip(*layers, strict=True))
        none = torch.full_like(k, -1)
        d = Decomposition(x, k, s, r, mean, shape, z, stack(terms, 1), losses, none)
        return Contest(d, draws.noise)

    def _losses(
        self, model: Model, guide: Guide, x: Tensor, s_t: Tensor, proposals: Proposals, left: int
    ) -> Tensor:
        """What the experts compete on, ``(B, K)`` nats; ``left`` layers follow this one."""
        return proposals.terms.competition_loss(self.lam)


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
        r = guide.attend_all(x, s_t)  # Eq. 9, (B, K, 1, H, W)
    elif r_t.dim() == 5:
        r = r_t
    else:
        r = r_t[:, None].expand(-1, model.num_experts, -1, -1, -1)
    q_z = guide.encode_all(x, r, noise, s_t)  # batch (B, K)
    z = q_z.rsample()
    mean, shape = model.decode_all(z)
    errors = pixel_errors(x, mean, model.pixel_noise)
    l_x, l_r = pixel_terms(model, s_t[:, None], r, errors, shape)  # Eqs. 10 and 12
    l_z = kl_divergence(q_z, model.latent_prior(*r.shape[:2]))  # Eq. 11
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
    slots = r.shape[1]
    xs = x.repeat_interleave(slots, 0)
    s_t, of_layers, r_t = (a.flatten(0, 1) for a in (scope, noise, r))
    proposals = propose(model, guide, xs, s_t, of_layers, r_t)
    return proposals.map(lambda a: a.unflatten(0, (-1, slots)))


def draw_winners(
    losses: Tensor,
    temperature: float,
    expert_bias: Tensor | None = None,
    gumbel: Tensor | None = None,
) -> Tensor:
    """Draw winners: P(k) ~ exp(-(loss + bias) / temperature), by the Gumbel-max trick.

    Args:
        losses: ``(..., K)`` in nats, lower is better.
        temperature: in nats; 0 always selects the best expert.
        expert_bias: nats added to each expert's losses, ``(K,)``.
        gumbel: standard Gumbel noise, ``(..., K)``; drawn if not given.

    Returns:
        ``(...)`` int64.
    """
    if expert_bias is not None:
        losses = losses + expert_bias
    if temperature == 0:
        return losses.argmin(-1)
    if gumbel is None:
        gumbel = draw_gumbel(losses.shape, losses)
    return (gumbel - losses / temperature).argmax(-1)
