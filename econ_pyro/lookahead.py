r"""What the competition's score sees beyond the step itself.

A step's own cost, lambda L_x + L_r, counts only what the step takes, so that an empty region is
the cheapest of all and an object that nobody took stays in the background for good. Two accounts
of the rest mend that, at O(K) network passes a step or none:

* *Ending.* The rest would be explained by one expert, as if the scene ended here. What a region
  saves over that is what its pixels would have cost. It makes experts carve objects out, the
  most costly first.
* *Rolling out.* Of the regions that pay, those that save more than they cost (and, if there are
  more of them than steps to take them in, that gain most), the one goes first that would gain
  least by waiting for another: what its cost would be, confined to the scope that the other's
  region leaves and with the expert that is best then, is compared with what it is now. A hidden
  object that goes before what hides it pays, in L_r, for its missing part; the nearest of all has
  nothing to wait for.

Rolling out takes proposals that are about right, so it follows ending (``rollout_from``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from econ_pyro.distributions import LayeredNormal, MeanBernoulli
from econ_pyro.layers import SCOPE_EPS
from econ_pyro.proposals import Generator, Proposals, Recogniser, Rules, propose


def ending(
    model: Generator, guide: Recogniser, x: Tensor, s_t: Tensor, noise: Tensor, rules: Rules
) -> Tensor:
    """What the best expert would make of all that is left, ``(B, 3, H, W)``.

    Args:
        model: p.
        guide: q.
        x: images, ``(B, 3, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        noise: of the latent, ``(B, L)``.
        rules: of the competition.
    """
    endings = propose(model, guide, x, s_t, noise, rules, s_t)
    return endings.of(endings.terms.score(1.0).argmin(1)).mean


def looked_ahead(
    proposals: Proposals,
    end: Tensor,
    model: Generator,
    x: Tensor,
    s_t: Tensor,
    rules: Rules,
    left: int,
    ways: Proposals | None = None,
) -> Tensor:
    """Scores that count the rest of the scene, ``(B, K)`` in nats, up to a constant an image.

    Args:
        proposals: of all experts, or of each thing that could be taken, ``(B, K)``.
        end: what :func:`ending` makes of the images.
        model: p.
        x: images, ``(B, 3, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        rules: of the competition.
        left: steps in which a region can be chosen, this one included.
        ways: ways to explain the same things, ``(B, K, A, ...)``, of which another may be the
            cheapest once something has been taken; those of ``proposals`` if not given.
    """
    ends = end[:, None].expand_as(proposals.mean)
    saved = LayeredNormal(proposals.r, ends, rules.sigma_x).squared_error(x)  # (B, K)
    cost = proposals.terms.score(rules.lam)
    if not rules.rollout:
        return cost - saved
    gain = saved - cost
    n = gain.shape[1]
    pays = (gain > 0) & ((gain[:, None] > gain[:, :, None]).sum(2) < left)
    ways = proposals.map(lambda a: a[:, :, None]) if ways is None else ways
    after = torch.stack(
        [_costs_after(r_k, ways, model, x, s_t, rules) for r_k in proposals.r.unbind(1)], 1
    )  # (B, K, K): [b, k, j] is what j's proposal costs once k's is taken
    waits = pays[:, :, None] & ~torch.eye(n, dtype=torch.bool, device=x.device)
    least = after.masked_fill(~waits, torch.inf).amin(1)
    by_waiting = (cost - least).clamp_min(0.0).where(pays, 0.0)
    missed = by_waiting.amax(1, keepdim=True) + gain.amax(1, keepdim=True) - gain
    return by_waiting.where(pays, missed)


def _costs_after(
    r_k: Tensor, ways: Proposals, model: Generator, x: Tensor, s_t: Tensor, rules: Rules
) -> Tensor:
    """Lambda L_x + L_r of each thing in its cheapest way, confined to what r_k leaves, (B, K)."""
    r, mean, shape = (a.flatten(1, 2) for a in ways[:3])
    rest = (s_t - r_k)[:, None]
    r = r * rest / s_t[:, None].clamp_min(SCOPE_EPS)
    l_x = LayeredNormal(r, mean, rules.sigma_x).squared_error(x)
    kl = kl_divergence(MeanBernoulli(r).to_event(3), model.region_prior(rest, shape))
    return (rules.lam * l_x + kl).unflatten(1, (-1, ways.r.shape[2])).amin(2)
