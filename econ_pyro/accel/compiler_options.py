"""What torch's compiler is asked for wherever this package compiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

# of a network and its layers: whether they have hooks, or methods of their own
_NEVER = ("EMPTY_NN_MODULE_HOOKS_DICT", "NOT_PRESENT_IN_GENERIC_DICT")


def of_what_changes(guards: Sequence[Any]) -> list[bool]:
    """Which of the checks before each call of a graph are needed here.

    Not those of what no step changes, two thirds of all: functions and modules that are globals,
    and hooks of networks, which none of ours has.
    """
    return [guard.guard_type not in _NEVER and guard.name[:2] != "G[" for guard in guards]


def compiler_options(
    guard_filter: Callable[[Sequence[Any]], list[bool]] = of_what_changes,
) -> dict[str, Any]:
    """Options of ``torch.compile``.

    Args:
        guard_filter: which checks before a call are needed.
    """
    # the checks of a graph's tensors take a hundredth of a step on two cores
    options: dict[str, Any] = {"size_asserts": False}
    if hasattr(torch.compiler, "keep_tensor_guards_unsafe"):  # older torch has no such option
        options["guard_filter_fn"] = guard_filter
    return options
