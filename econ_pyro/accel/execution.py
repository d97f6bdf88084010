"""How a step is executed: precision, compilation, and the processes that share its batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from econ_pyro.accel.compile import compiling
from econ_pyro.accel.process_group import ProcessGroup


@dataclass(frozen=True)
class Execution:
    """Options that change how fast a step is, not what it computes (but for rounding).

    Args:
        amp: run the networks in bfloat16.
        compile: compile networks and small functions (:mod:`econ_pyro.accel.compile`).
        group: processes that share each batch.
    """

    amp: bool = False
    compile: bool = False
    group: ProcessGroup = field(default_factory=ProcessGroup)

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        """Run a block with these options. One block per pass: autocast caches its cast weights."""
        amp = torch.autocast(device.type, torch.bfloat16, enabled=self.amp)
        with amp, compiling(self.compile):
            yield
