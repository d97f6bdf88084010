"""Benchmarks: interleaved timings, peak throughput, memory, floating-point operations."""

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

from econ_pyro.accel.cpu_cores import parallel_map, single_threaded, used_cores

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def time_interleaved(
    jobs: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warmup: int = 3,
) -> dict[str, list[float]]:
    """Time jobs in turns, so that changes of the machine's load affect all of them.

    On a CPU, seconds of CPU time are measured, which other programs change little. In each round,
    every job is called twice and the second call is timed, so that caches are in
    the state of a job that runs continuously, as training does.

    Args:
        jobs: functions to time, by name.
        device: device to synchronise after each call.
        rounds: number of timed rounds.
        warmup: number of rounds before, which are not timed.

    Returns:
        Seconds per round, by job.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(warmup + rounds):
        for name, job in jobs.items():
            job()
            _synchronize(device)
            start = clock()
            job()
            _synchronize(device)
            if i >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def matrix_product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    """A job of ``2 * size**3`` operations, on CPUs per core, to measure the peak throughput."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    if device.type != "cpu":
        return lambda: a @ b
    return lambda: parallel_map(lambda _: a @ b, range(used_cores()))


def count_flops(job: Callable[[], object], calls: int = 3) -> int:
    """Floating-point operations of convolutions and matrix products per call, averaged."""
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    # the counter only counts operations of this thread
    with single_threaded(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        for _ in range(calls):
            job()
    return counter.get_total_flops() // calls


def peak_memory(job: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory of a call in bytes, beyond what was allocated before; None if unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # otherwise, the call reuses memory of earlier calls
        _CLEAR.write_text("5")  # reset the high-water mark on Linux
    except (OSError, AttributeError):
        return None
    before = _read_status("VmRSS")
    job()
    return _read_status("VmHWM") - before


def fit_line(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Least-squares fit ``y = a + b x``: a, b and the coefficient of determination."""
    xs, ys = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    b = ((xs - xs.mean()) * (ys - ys.mean())).sum() / (xs - xs.mean()).square().sum()
    a = ys.mean() - b * xs.mean()
    unexplained = (ys - a - b * xs).square().sum() / (ys - ys.mean()).square().sum()
    return a.item(), b.item(), 1 - unexplained.item()


def format_milliseconds(seconds: list[float]) -> str:
    """Median and range in milliseconds."""
    return f"{1e3 * median(seconds):.1f} ({1e3 * min(seconds):.1f}-{1e3 * max(seconds):.1f})"


def _convolution_backward_flops(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Operations of a convolution's backward pass; torch's formula ignores groups.

    Args:
        grad: shape of the output.
        x: shape of the input.
        weight: shape of the weights.
        *args: remaining arguments of ``aten.convolution_backward``, the output mask last.
        **kwargs: arguments that the counter adds.
    """
    forward = 2 * math.prod(grad) * math.prod(weight[1:])
    output_mask = args[-1]
    return forward * (output_mask[0] + output_mask[1])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read_status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in {_STATUS}")
