r"""Specialisation of experts on classes of object.

All scores follow from a confusion table: the rows are true classes, the background last, the
columns are experts, and the entries count matched objects and backgrounds that an expert won.
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
        matching: assignment of layers to true objects.
        k: winning expert of each layer, ``(B, T)`` int64.
        label: class of each true object, ``(B, N)`` int64, below ``classes``.
        background: scenes with visible true background, ``(B,)`` bool.
        classes: number of classes of object C.
        experts: number of experts K.

    Returns:
        ``(C + 1, K)`` int64, the background last. Objects without a layer are not counted.
    """
    found = matching.visible & (matching.layer != UNMATCHED)
    winner = k.gather(1, matching.layer.clamp_min(0))  # (B, N)
    matched = background & (matching.background != UNMATCHED)
    background_winner = k.gather(1, matching.background.clamp_min(0)[:, None])[:, 0]
    background_cell = classes * experts + background_winner[matched]
    cell = torch.cat([(label * experts + winner)[found], background_cell])
    return torch.bincount(cell, minlength=(classes + 1) * experts).view(classes + 1, experts)


def class_accuracy(confusion: Tensor) -> float:
    """Share of wins by the expert of the class, with one expert per class (Hungarian method).

    Wins in classes without an expert count as wrong. NaN for an empty table.

    Args:
        confusion: number of wins by class and expert, ``(C, K)``.
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
        present: present layers, ``(B, T)`` bool.
        experts: number of experts K.

    Returns:
        ``(K,)`` float64; sums to 1.
    """
    wins = torch.bincount(k[present], minlength=experts).double()
    return wins / wins.sum()


def names_by_majority(confusion: Tensor, class_names: Sequence[str]) -> list[str]:
    """Name each expert after the class that it wins most.

    Of several experts of a class, the one with the most wins gets the name of the class, the next
    "circle-2" and so on. An expert k without wins is "unused-k". Characters that names cannot
    contain are escaped (:func:`~econ_pyro.naming.clean_name`).

    Args:
        confusion: ``(C + 1, K)``, the background last.
        class_names: the C classes of object, without the background.

    Returns:
        K distinct names.

    Raises:
        EconError: the number of class names does not match the table.
    """
    if len(confusion) != len(class_names) + 1:
        raise EconError(
            f"{len(confusion) - 1} class names for a table of {len(confusion)} rows",
            f"{len(class_names)}: {', '.join(class_names)}",
            "give the classes of object in the order of their labels, without the background",
        )
    wins, row = (part.tolist() for part in confusion.max(dim=0))
    rows = [*class_names, "background"]
    used = sorted((k for k in range(len(wins)) if wins[k]), key=lambda k: -wins[k])
    unused = [k for k in range(len(wins)) if not wins[k]]
    names = [clean_name(rows[row[k]]) for k in used] + [f"unused-{k}" for k in unused]
    name_of = dict(zip([*used, *unused], distinct_names(names), strict=True))
    return [name_of[k] for k in range(len(wins))]


def distinct_names(names: Sequence[str], given: Sequence[str] = ()) -> list[str]:
    """Make names of experts distinct by numbers: a second "circle" becomes "circle-2".

    The first expert with a name keeps it, even if it ends in a number.

    Args:
        names: K names.
        given: fixed names of the first experts, which take precedence; empty names are not fixed.
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
            suffix = f"-{number}"
            new = _NUMBER.sub("", name)[: MAX_NAME_LENGTH - len(suffix)].rstrip() + suffix
            if new not in taken:
                out[k] = new
                taken.add(new)
    return out


def is_named(name: str) -> bool:
    """Whether a name is more than the default, which contains only the index of the expert."""
    return not re.fullmatch(r"(expert|unused)-\d+", name)


def _entropy(p: Tensor) -> float:
    return float(torch.special.entr(p).sum())
