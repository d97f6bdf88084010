"""Files of a run: checkpoints, experts, config and metrics.

Every file is written under a temporary name and renamed, so a reader never sees half of one, and
none of them can execute code: checkpoints load with ``weights_only=True``, experts are
safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from econ_pyro.errors import EconError
from econ_pyro.files import write_atomically

LAST, BEST = "checkpoints/last.pt", "checkpoints/best.pt"
CONFIG, METRICS, NAMES = "config.json", "metrics.jsonl", "experts.json"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint of plain containers and tensors, atomically."""
    write_atomically(path, lambda p: torch.save(state, p))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint; never executes code.

    Raises:
        EconError: there is none, or it is cut short or damaged.
    """
    if not path.exists():
        raise EconError("a checkpoint", f"no file {path}", "was the run stopped before step 1?")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, OSError) as error:
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise EconError(
            f"a whole checkpoint in {path}",
            f"a damaged file ({reason})",
            "use the other one of best.pt and last.pt, or train again",
        ) from None


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Weights into a module of the same sizes.

    Raises:
        EconError: the names or sizes differ: a checkpoint of another configuration.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:120]
        raise EconError(
            "weights that fit this run's config.json",
            f"others in {source} ({reason})",
            "the checkpoint is from another configuration: restore its own config.json",
        ) from None


def save_experts(folder: Path, experts: list[dict[str, nn.Module]]) -> None:
    """Each expert alone, as ``expert_k.safetensors``.

    Args:
        folder: where to.
        experts: for each expert, its ``decoder``, ``attention`` and ``encoder``.
    """
    for k, parts in enumerate(experts):
        tensors = {
            f"{part}.{name}": tensor.contiguous()
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }
        write_atomically(
            folder / f"expert_{k}.safetensors",
            lambda p, tensors=tensors: save_file(tensors, p),  # type: ignore[misc]
        )


def load_expert(path: Path, parts: dict[str, nn.Module]) -> None:
    """One expert's weights from its safetensors file into its parts.

    Raises:
        EconError: the file is missing, damaged or of other sizes.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise EconError("an expert's safetensors file", f"{path} ({error})") from None
    for part, module in parts.items():
        prefix = f"{part}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        load_weights(module, own, path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``; a last line cut short by a kill is dropped."""
    return list(_rows(path)) if path.exists() else []


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
