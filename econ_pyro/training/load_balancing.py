"""Keep experts in the competition: handicaps, and restarts of starved experts.

An expert that wins almost nothing learns almost nothing and goes on losing. As in sprite
clustering, it is replaced by a copy of the expert that wins most, its optimiser state too, so that
the two can divide that one's objects between them. A handicap for winners keeps experts of nearly
equal scores at even shares while they grow apart, as in load balancing without an auxiliary loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from econ_pyro.accel.packed import leaves

NOISE = 0.02  # of each tensor's own root mean square


def handicapped(handicap: Tensor, wins: Tensor, rate: float, limit: float) -> Tensor:
    """Handicaps after a step.

    Args:
        handicap: before the step, ``(K,)`` in nats.
        wins: how often each expert won in the step, ``(K,)``.
        rate: nats for each even share above an even share.
        limit: largest absolute handicap.
    """
    excess = len(wins) * wins / wins.sum().clamp_min(1) - 1
    return (handicap + rate * excess).clamp(-limit, limit)


def starved(wins: Tensor, below: float) -> list[tuple[int, int]]:
    """Pairs (starved expert, busiest expert) to copy over.

    The expert that wins most last steps paints backgrounds; the others are for objects, and an
    expert that shares backgrounds with it is as starved of objects as one that wins nothing.

    Args:
        wins: how often each expert won each step, front to back, ``(T, K)``.
        below: an expert is starved under this share of an even share of the objects' steps.
    """
    objects = wins[:-1].sum(0).float()
    objects[wins[-1].argmax()] = 0.0
    if objects.sum() < below * wins[:-1].sum():
        return []  # the backgrounds' expert takes the objects as well: nothing worth a copy
    share = objects / objects.sum().clamp_min(1)
    busiest = int(share.argmax())
    others = [k for k in range(wins.shape[1]) if k != int(wins[-1].argmax())]
    return [(k, busiest) for k in others if share[k] < below / len(others)]


@torch.no_grad()
def copy_expert(modules: list[nn.ModuleList], optim: Optimizer, source: int, target: int) -> None:
    """Make an expert a noisy copy of another.

    Args:
        modules: the ensembles, indexed by expert: decoders, attention nets, encoders.
        optim: its per-parameter state is copied as well.
        source: expert to copy.
        target: expert to overwrite.
    """
    for experts in modules:
        for a, b in zip(experts[source].buffers(), experts[target].buffers(), strict=True):
            b.copy_(a)
        pairs = zip(experts[source].parameters(), experts[target].parameters(), strict=True)
        for a, b in pairs:
            size = a.square().mean().sqrt()
            b.copy_(a + NOISE * size * torch.randn_like(a))
        # of one that is frozen there is nothing, packed or not
        for a, b in zip(leaves(experts[source]), leaves(experts[target]), strict=False):
            optim.state.pop(b, None)
            if a in optim.state:
                optim.state[b] = {name: v.clone() for name, v in optim.state[a].items()}
