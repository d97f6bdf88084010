"""Loops that an export keeps as loops.

An export unrolls Python's. Hundreds of copies of a long body take it an hour and fill the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from econ_pyro.accel.bilinear import exporting

Number = float | Tensor
State = tuple[Tensor, ...]


def fold(
    step: Callable[[State, Sequence[Number]], State], state: State, rows: Sequence[Sequence[float]]
) -> State:
    """Take one step after another, each with numbers of its own.

    Args:
        step: the next state from the last one and a row; in an export, numbers are scalar tensors.
        state: the first state. Shapes and types stay.
        rows: the numbers of each step.
    """
    if not (torch.compiler.is_compiling() and exporting()):
        for row in rows:
            state = step(state, row)
        return state
    from torch._higher_order_ops.scan import scan

    def body(before: list[Tensor], row: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return [*step(tuple(before), row.unbind())], []

    first = [a.clone(memory_format=torch.contiguous_format) for a in state]
    return tuple(scan(body, first, state[0].new_tensor(rows))[0])
