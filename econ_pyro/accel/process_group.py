"""Data-parallel training on torch's own engine: the process group that ``torchrun`` started.

All processes draw the same random numbers, for the whole batch, and each works on its share of
the scenes. A run is therefore the same, up to rounding, whatever the number of processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from econ_pyro.errors import EconError

_SETTLED = 0.5  # seconds after which no thread holds a tensor any more


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share each batch of a training run.

    Args:
        rank: number of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def share(self, whole: Tensor) -> Tensor:
        """This process's rows of what all have."""
        return whole[self.rank :: self.size]

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes, the same in each; overwrites ``value``."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=device)).item())

    def lead(self, action: Callable[[], object], device: torch.device) -> None:
        """Have the first process do something, and the others wait for it.

        Args:
            action: what only one may do, such as write.
            device: where the processes meet.

        Raises:
            EconError: it failed: its own error in the first process, and in the others this one.
            OSError: likewise, in the first process.
        """
        failed: EconError | OSError | None = None
        if self.first:
            try:
                action()
            except (EconError, OSError) as error:
                failed = error
        if self.any(failed is not None, device):
            raise failed or EconError("the first process to go on", "an error, which it tells")


@contextmanager
def join(device: torch.device, batch: int) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """Join the group that ``torchrun`` started, or make one of a single process.

    Args:
        device: where training runs; of several GPUs each process takes its own.
        batch: scenes in a training step, divided among the processes.

    Raises:
        EconError: the batch cannot be divided evenly.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup(), device
        return
    if batch % size:
        raise EconError(
            f"a batch that {size} processes share evenly",
            str(batch),
            f"set --train.batch {batch + -batch % size}",
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), size), device
    finally:
        # gloo's threads let go of a collective's tensors a moment after it is done, for which they
        # need Python's lock; whoever takes the group apart has it, and waits for them for ever
        time.sleep(_SETTLED)
        distributed.destroy_process_group()
