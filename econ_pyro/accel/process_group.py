"""Data-parallel training with ``torch.distributed``, in processes started by ``torchrun``.

All processes draw the same random numbers for the whole batch, and each process uses those of its
shard. Up to rounding, results therefore do not depend on the number of processes.
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

_SHUTDOWN_DELAY = 0.5  # seconds until gloo's threads have released their tensors


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share each batch of a training run.

    Args:
        rank: index of this process.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, whole: Tensor) -> Tensor:
        """The rows of this process in a tensor that all processes have."""
        return whole[self.rank :: self.size]

    def sum(self, value: Tensor) -> Tensor:
        """Sum over processes, in place; the result is the same in all of them."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def broadcast(self, value: Tensor) -> Tensor:
        """The first process's value, in place; the result is the same in all of them."""
        if self.size > 1:
            distributed.broadcast(value, 0)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=device)).item())

    def lead(self, action: Callable[[], object], device: torch.device) -> None:
        """Run a function in the first process, while the others wait for it.

        Args:
            action: the function, such as one that writes files.
            device: device of the communication.

        Raises:
            EconError: the function failed. In the first process, this is the original error.
            OSError: the function raised it; only in the first process.
        """
        failed: EconError | OSError | None = None
        if self.first:
            try:
                action()
            except (EconError, OSError) as error:
                failed = error
        if self.any(failed is not None, device):
            raise failed or EconError("the first process to succeed", "an error, see its output")


@contextmanager
def join(device: torch.device, batch: int) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """Join the process group of ``torchrun``, or make one with a single process.

    Args:
        device: device of the training; with CUDA, each process uses its own GPU.
        batch: batch size of all processes together.

    Raises:
        EconError: the batch size is not a multiple of the number of processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup(), device
        return
    if batch % size:
        raise EconError(
            f"a batch size that is a multiple of {size}, the number of processes",
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
        # gloo's threads need Python's GIL to release tensors shortly after a collective ends;
        # destroying the group holds the GIL and waits for these threads, which is a deadlock
        time.sleep(_SHUTDOWN_DELAY)
        distributed.destroy_process_group()
