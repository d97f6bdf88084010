"""Measure: interleaved times, the machine's own peak, memory, floating-point operations."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from econ_pyro.accel.cpu_cores import alone, each, used_cores

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def interleaved(
    jobs: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warmup: int = 3,
) -> dict[str, list[float]]:
    """Seconds of each job at each turn, the jobs taking turns so that they meet the same machine.

    On a CPU, they are seconds of CPU time, which other programs change little. A turn is two
    calls, of which the second is timed: a job that goes on and on, as training does, finds its
    memory and its kernels as it left them, not as another job did.

    Args:
        jobs: what to time, by name.
        device: waited for after each call.
        rounds: turns of each job that are timed.
        warmup: turns of each job before.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(warmup + rounds):
        for name, job in jobs.items():
            job()
            _wait(device)
            began = clock()
            job()
            _wait(device)
            if turn >= warmup:
                seconds[name].append(clock() - began)
    return seconds


def matrix_product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    """A job of ``2 * size**3`` operations, on CPUs for each core in use.

    It is the machine's peak as its own libraries reach it.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    if device.type != "cpu":
        return lambda: a @ b
    return lambda: each(lambda _: a @ b, range(used_cores()))


def operations(job: Callable[[], object], calls: int = 3) -> int:
    """Floating-point operations of convolutions and matrix products in a call, mean of several."""
    own = {torch.ops.aten.convolution_backward: _backward_operations}
    # the counter sees this thread alone
    with alone(), FlopCounterMode(display=False, custom_mapping=own) as counter:
        for _ in range(calls):
            job()
    return counter.get_total_flops() // calls


def peak_memory(job: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call needs at the most beyond what was held before; None where not known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what earlier calls freed, or none is needed
        _CLEAR.write_text("5")  # Linux: the high-water mark starts again from the present
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    job()
    return _resident("VmHWM") - before


def fit_line(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Least squares ``y = a + b x``: a, b and the coefficient of determination."""
    xs, ys = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    b = ((xs - xs.mean()) * (ys - ys.mean())).sum() / (xs - xs.mean()).square().sum()
    a = ys.mean() - b * xs.mean()
    rest = (ys - a - b * xs).square().sum() / (ys - ys.mean()).square().sum()
    return a.item(), b.item(), 1 - rest.item()


def milliseconds(seconds: list[float]) -> str:
    """Median and range, for people."""
    return f"{1e3 * median(seconds):.1f} ({1e3 * min(seconds):.1f}-{1e3 * max(seconds):.1f})"


def _backward_operations(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Of a convolution's gradients, shapes given: torch's formula forgets the groups of weights'.

    Args:
        grad: of the output.
        x: of the input.
        weight: of the weights.
        *args: those of ``aten.convolution_backward`` that follow; the last says which are wanted.
        **kwargs: what the counter adds.
    """
    forward = 2 * math.prod(grad) * math.prod(weight[1:])
    wanted = args[-1]
    return forward * (wanted[0] + wanted[1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in {_STATUS}")
