r"""Which expert explains which class of object.

Everything is read off one table: rows are true classes with the background as the last row,
columns are experts, entries count matched objects (and backgrounds) won by the expert.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.evaluation.matching import UNMATCHED, Matching
from econ_pyro.naming import MAX_NAME_LENGTH, clean_name

_NUMBER = re.compile(r"-\d+$")


def class_confusion(
    matching: Matching, k: Tensor, label: Tensor, background: Tensor, classes: int, experts: int
) -> Tensor:
    """Count wins by true class and expert.

    Args:
        matching: which layer is which object.
        k: winning expert of each layer, ``(B, T)`` int64.
        label: class of each true object, ``(B, N)`` int64, below ``classes``.
        background: scenes in which true background can be seen, ``(B,)`` bool.
        classes: number of classes of object C.
        experts: number of experts K.

    Returns:
        ``(C + 1, K)`` int64, the background last. Objects without a layer are not in it.
    """
    found = matching.there & (matching.layer != UNMATCHED)
    winner = k.gather(1, matching.layer.clamp_min(0))  # (B, N)
    seen = background & (matching.background != UNMATCHED)
    behind = k.gather(1, matching.background.clamp_min(0)[:, None])[:, 0]
    cell = torch.cat([(label * experts + winner)[found], classes * experts + behind[seen]])
    return torch.bincount(cell, minlength=(classes + 1) * experts).view(classes + 1, experts)


def class_accuracy(confusion: Tensor) -> float:
    """Share of wins by the right expert, one expert per class (Hungarian method).

    A class that is left without an expert counts as wrong. NaN for an empty table.

    Args:
        confusion: wins by class and expert, ``(C, K)``.
    """
    rows, columns = linear_sum_assignment(confusion.numpy(force=True), maximize=True)
    total = int(confusion.sum())
    return int(confusion[rows, columns].sum()) / total if total else float("nan")


def normalised_mutual_information(confusion: Tensor) -> float:
    """2 I(class; expert) / (H(class) + H(expert)), in [0, 1].

    1 if there is one class and one expert, as in scikit-learn; NaN for an empty table.
    """
    total = confusion.sum()
    if total == 0:
        return float("nan")
    p = confusion.double() / total
    h_class, h_expert, h_both = (_entropy(q) for q in (p.sum(dim=1), p.sum(dim=0), p.flatten()))
    if h_class + h_expert == 0:
        return 1.0
    return min(1.0, max(0.0, 2 * (h_class + h_expert - h_both) / (h_class + h_expert)))


def expert_usage(k: Tensor, present: Tensor, experts: int) -> Tensor:
    """Share of present layers that each expert won.

    Args:
        k: winning expert of each layer, ``(B, T)`` int64.
        present: layers that hold something, ``(B, T)`` bool.
        experts: number of experts K.

    Returns:
        ``(K,)`` float64; sums to 1.
    """
    wins = torch.bincount(k[present], minlength=experts).double()
    return wins / wins.sum()


def names_by_majority(confusion: Tensor, class_names: Sequence[str]) -> list[str]:
    """Name each expert by the class that it wins most.

    The busiest of several experts of a class takes the plain name, the next "circle-2" and so on.
    An expert k that never won is "unused-k". What no name can have, such as a line end in a
    class's, is written as an escape.

    Args:
        confusion: ``(C + 1, K)``, the background last.
        class_names: the C classes of object, without the background.

    Returns:
        K different names.
    """
    if len(confusion) != len(class_names) + 1:
        raise EconError(
            f"{len(confusion) - 1} class names for a table of {len(confusion)} rows",
            f"{len(class_names)}: {', '.join(class_names)}",
            "give the classes of object in the order of their labels, without the background",
        )
    wins, row = (part.tolist() for part in confusion.max(dim=0))
    rows = [*class_names, "background"]
    busiest = sorted((k for k in range(len(wins)) if wins[k]), key=lambda k: -wins[k])
    idle = [k for k in range(len(wins)) if not wins[k]]
    found = [clean_name(rows[row[k]]) for k in busiest] + [f"unused-{k}" for k in idle]
    named = dict(zip([*busiest, *idle], distinct_names(found), strict=True))
    return [named[k] for k in range(len(wins))]


def distinct_names(names: Sequence[str], given: Sequence[str] = ()) -> list[str]:
    """Names of experts, no two alike: those given stay, a further "circle" is "circle-2".

    The first expert of a name keeps it, also where it ends in a number.

    Args:
        names: K names.
        given: names of the first experts that go before; empty ones do not count.
    """
    given = [*given, *[""] * (len(names) - len(given))]
    taken = {name for name in given if name}
    out = list(given)
    for k, name in enumerate(names):
        if name and not out[k] and name not in taken:
            out[k] = name
            taken.add(name)
    for k, name in enumerate(names):
        number = 1
        while name and not out[k]:
            number += 1
            end = f"-{number}"
            new = _NUMBER.sub("", name)[: MAX_NAME_LENGTH - len(end)].rstrip() + end
            if new not in taken:
                out[k] = new
                taken.add(new)
    return out


def is_named(name: str) -> bool:
    """Whether a name says more of an expert than its place."""
    return not re.fullmatch(r"(expert|unused)-\d+", name)


def _entropy(p: Tensor) -> float:
    return float(torch.special.entr(p).sum())
