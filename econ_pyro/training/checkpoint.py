"""Checkpoints, and names of the files of a run.

Every file is written under a temporary name and renamed, so readers never see an incomplete file.
No file can execute code: checkpoints load with ``weights_only=True``, experts are safetensors
(:mod:`econ_pyro.io.expert_file`), all others are JSON. Checksums detect damaged files: those of
zip archives for checkpoints (:mod:`econ_pyro.files.archive`), one in the metadata of experts
(:mod:`econ_pyro.files.tensor_file`), and a field of the configuration, the names and each row of
metrics (:mod:`econ_pyro.files.storage`).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from econ_pyro.errors import EconError, command
from econ_pyro.files.archive import check_archive
from econ_pyro.files.storage import write_atomically
from econ_pyro.training.metrics_file import read_rows

read_metrics = read_rows
"""Alias of :func:`econ_pyro.training.metrics_file.read_rows`."""

LAST, BEST = "checkpoints/last.pt", "checkpoints/best.pt"
CONFIG, METRICS, NAMES = "config.json", "metrics.jsonl", "experts.json"
_HINT = "use the other one of best.pt and last.pt, or train again"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of plain containers and tensors atomically."""
    write_atomically(path, lambda p: torch.save(state, p))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without executing code.

    Raises:
        EconError: the file does not exist, or is truncated, damaged or not a checkpoint.
    """
    if not path.exists():
        raise EconError("a checkpoint", f"no file {path}", _hint_if_missing(path))
    whole = f"a whole checkpoint in {path}"
    check_archive(path, whole, _HINT)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (
        RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, OSError, ValueError,
        TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise EconError(whole, f"a damaged file ({reason})", _HINT) from None
    if not isinstance(state, dict):
        raise EconError(whole, f"a {type(state).__name__}", _HINT)
    return state


def _hint_if_missing(path: Path) -> str:
    run, other = path.parent.parent, LAST if path.name == "best.pt" else BEST
    if (run / other).exists():
        return (
            f"{run / other} exists: the run was stopped before its first validation, or the "
            f"file was moved; resume it with {command('train')} PRESET --run {run} --resume"
        )
    if (run / CONFIG).exists():
        return (
            "the run was stopped before its first checkpoint was written; restart it with "
            f"{command('train')} --overwrite"
        )
    return f"{run} is not the folder of a run"


def check_weights(state: Any, like: Mapping[str, Tensor], source: Path) -> None:
    """Check that weights from a file match those of a module and are finite.

    Args:
        state: weights by name, from a file.
        like: weights of the module; values are ignored.
        source: the file, for the error message.

    Raises:
        EconError: names, types or sizes differ, or a weight is NaN or infinite.
    """
    reason = _difference(state, like)
    if reason:
        raise EconError(
            "weights of the sizes that are configured",
            f"others in {source} ({reason})",
            "they belong to another configuration: restore their config.json",
        )
    for name, tensor in state.items():
        # checking the sum first takes half the time; it is finite if the weights are
        if not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise EconError(
                f"finite weights in {source}",
                f"NaN or infinity in {name}",
                "training diverged: use another checkpoint, or train again",
            )


def _difference(state: Any, like: Mapping[str, Tensor]) -> str:
    """Describe how weights differ from those of a module; empty if they match."""
    if not isinstance(state, dict):
        return f"no weights, but a {type(state).__name__}"
    for name, own in like.items():
        tensor = state.get(name)
        if tensor is None:
            return f"without {name}"
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return f"{name} is not a tensor"
        if tensor.shape != own.shape:
            return f"{name} is {_size(tensor)}, not {_size(own)}"
        if tensor.is_floating_point() != own.is_floating_point() or tensor.is_complex():
            return f"{name} is of type {tensor.dtype}"
    further = [str(name) for name in state if name not in like]
    return f"with {further[0][:80]!r} as well" if further else ""


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
