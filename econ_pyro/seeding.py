"""Which of the things in the scope is taken next, where regions grow from seeds.

The choice of the object and the competition for it are two questions then. The guide names seeds
of as many things as there are steps left to take them. By the lookahead's account of each as its
best expert explains it, the nearest is chosen; that it may have a better expert once others are
gone counts too, as what is seen of a square now may look like a circle. All experts then compete
for that one thing on equal terms. Without rolling out, the most salient thing is next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from econ_pyro.lookahead import ending, looked_ahead
from econ_pyro.proposals import Generator, Proposals, Recogniser, Rules, propose


@torch.no_grad()
def next_object(
    model: Generator,
    guide: Recogniser,
    x: Tensor,
    s_t: Tensor,
    noise: Tensor,
    rules: Rules,
    left: int,
) -> tuple[Proposals, Tensor]:
    """What all experts make of the thing that is next.

    Args:
        model: p.
        guide: q, with seeds.
        x: images, ``(B, 3, H, W)``.
        s_t: scope, ``(B, 1, H, W)``.
        noise: of the latent, ``(B, L)``.
        rules: of the competition.
        left: steps in which a region can be chosen, this one included.

    Returns:
        Their proposals, ``(B, K, ...)``, and its seed, ``(B,)``.
    """
    n = left if rules.lookahead and rules.rollout else 1
    seeds, r = guide.candidates(x, s_t, n)
    xs, scopes, noises = (a.repeat_interleave(n, 0) for a in (x, s_t, noise))
    everyone = propose(model, guide, xs, scopes, noises, rules, r.flatten(0, 1))  # (B n, K)
    if n == 1:
        return everyone, seeds[:, 0]
    best = everyone.of(everyone.terms.score(rules.lam).argmin(1))
    things, ways = (p.map(lambda a: a.unflatten(0, (-1, n))) for p in (best, everyone))
    end = ending(model, guide, x, s_t, noise, rules)
    first = looked_ahead(things, end, model, x, s_t, rules, left, ways).argmin(1)
    rows = torch.arange(first.shape[0], device=x.device)  # len() would fix an export's batch
    return everyone.map(lambda a: a[n * rows + first]), seeds[rows, first]
