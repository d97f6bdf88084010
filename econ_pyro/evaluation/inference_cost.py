"""Table 1's row "efficient inference": time, network passes, operations and memory per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from econ_pyro.accel.timing import count_flops, peak_memory, time_interleaved
from econ_pyro.evaluation.system_table import MISSING, Scores
from econ_pyro.infer.scene_model import SceneModel

BATCHES = (1, 64)
COLUMNS = {
    **{f"ms_{n}": f"ms per image, {n} at a time" for n in BATCHES},
    "passes": "network passes per image",
    "effort": "sampling per image",
    "gflop": "GFLOP per image",
    "memory": f"peak memory of {max(BATCHES)} images, MB",
    "parameters": "parameters",
}
"""Titles of the scores."""


def measure(
    models: Mapping[str, SceneModel], images: Tensor, device: torch.device, rounds: int = 5
) -> dict[str, Scores]:
    """Costs of decomposing images, of all models in turns in one process.

    On a CPU, times are CPU time of one thread. Memory is beyond what was allocated before.

    Args:
        models: scene models by name, all of one image size.
        images: at least as many as the largest of :data:`BATCHES`, ``(n, 3, H, W)``.
        device: where the models are.
        rounds: timed turns of each model and batch.
    """
    jobs: dict[str, Callable[[], object]] = {
        f"{name} {n}": partial(model.decompose, images[:n])
        for name, model in models.items()
        for n in BATCHES
    }
    seconds = time_interleaved(jobs, device, rounds, warmup=1)
    found: dict[str, Scores] = {}
    for name, model in models.items():
        memory = peak_memory(jobs[f"{name} {max(BATCHES)}"], device)
        found[name] = {
            **{f"ms_{n}": 1e3 * median(seconds[f"{name} {n}"]) / n for n in BATCHES},
            "passes": count_passes(model, images[:1]) or MISSING,
            "effort": model.sampling_effort() or MISSING,
            "gflop": count_flops(jobs[f"{name} 1"], calls=1) / 1e9,
            "memory": None if memory is None else memory / 1e6,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
    return found


def count_passes(model: SceneModel, images: Tensor) -> float:
    """Forward passes of convolutional networks per image, to decompose images.

    A network that sees all slots of an image at once in a batch has one pass for each slot.
    Backward passes (IODINE) are not counted; their operations are.
    """
    total = 0

    def count(network: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal total
        total += len(next(a for a in inputs if isinstance(a, Tensor)))

    handles = [network.register_forward_pre_hook(count) for network in networks(model)]
    try:
        model.decompose(images)
    finally:
        for handle in handles:
            handle.remove()
    passes = total / len(images)
    return int(passes) if passes.is_integer() else passes


def networks(model: nn.Module) -> Iterator[nn.Module]:
    """Convolutional networks of a scene model's programs, those in lists one by one."""
    for program in model.children():
        for child in program.children():
            parts = child if isinstance(child, nn.ModuleList) else [child]
            yield from filter(_is_network, parts)


def _is_network(module: nn.Module) -> bool:
    """Whether a module has convolutions, and not just one."""
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return sum(isinstance(part, kinds) for part in module.modules()) > 1
