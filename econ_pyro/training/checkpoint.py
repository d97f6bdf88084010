"""Files of a run: checkpoints and metrics.

Every file is written under a temporary name and renamed, so a reader never sees half of one, and
none of them can execute code: checkpoints load with ``weights_only=True``, experts are
safetensors (:mod:`econ_pyro.io.expert_file`), the rest is JSON. Each tells whether it is as it was
written: checkpoints by the checksums of zip archives (:mod:`econ_pyro.files.archive`), experts by
one of their own (:mod:`econ_pyro.files.tensor_file`), configuration, names and each row of metrics
by a field (:mod:`econ_pyro.files.storage`).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from econ_pyro.errors import EconError
from econ_pyro.files.archive import check_archive
from econ_pyro.files.storage import write_atomically
from econ_pyro.training.metrics_file import read_rows

read_metrics = read_rows
"""Rows of ``metrics.jsonl``, by the name that goes with the rest of this module."""

LAST, BEST = "checkpoints/last.pt", "checkpoints/best.pt"
CONFIG, METRICS, NAMES = "config.json", "metrics.jsonl", "experts.json"
_OTHER = "use the other one of best.pt and last.pt, or train again"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint of plain containers and tensors, atomically."""
    write_atomically(path, lambda p: torch.save(state, p))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint; never executes code.

    Raises:
        EconError: there is none, or it is cut short, damaged or none of ours.
    """
    if not path.exists():
        raise EconError("a checkpoint", f"no file {path}", _why_none(path))
    whole = f"a whole checkpoint in {path}"
    check_archive(path, whole, _OTHER)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (
        RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, OSError, ValueError,
        TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise EconError(whole, f"a damaged file ({reason})", _OTHER) from None
    if not isinstance(state, dict):
        raise EconError(whole, f"a {type(state).__name__}", _OTHER)
    return state


def _why_none(path: Path) -> str:
    run, other = path.parent.parent, LAST if path.name == "best.pt" else BEST
    if (run / other).exists():
        return (
            f"{run / other} is there: the run was stopped before its first validation, or the "
            "file was moved; go on with svi_train.py --resume"
        )
    if (run / CONFIG).exists():
        return (
            "the run was stopped before its first checkpoint was written; begin it again with "
            "svi_train.py --overwrite"
        )
    return f"{run} is no run's folder"


def check_weights(state: Any, like: Mapping[str, Tensor], source: Path) -> None:
    """Check that weights are those of a module, and finite.

    Args:
        state: weights by name, as they came from a file.
        like: what the module has; values play no part.
        source: the file, for the error message.

    Raises:
        EconError: names, types or sizes differ, or a weight is NaN or infinite.
    """
    reason = _difference(state, like)
    if reason:
        raise EconError(
            "weights of the sizes that are configured",
            f"others in {source} ({reason})",
            "they are from another configuration: restore the config.json that they came with",
        )
    for name, tensor in state.items():
        # the sum of weights is finite if they are, and takes half the time
        if not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise EconError(
                f"finite weights in {source}",
                f"NaN or infinity in {name}",
                "training went wrong there: use another checkpoint, or train again",
            )


def _difference(state: Any, like: Mapping[str, Tensor]) -> str:
    """How weights differ from what a module has; empty if they do not."""
    if not isinstance(state, dict):
        return f"no weights, but a {type(state).__name__}"
    for name, own in like.items():
        tensor = state.get(name)
        if tensor is None:
            return f"without {name}"
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return f"{name} is no tensor"
        if tensor.shape != own.shape:
            return f"{name} is {_size(tensor)}, not {_size(own)}"
        if tensor.is_floating_point() != own.is_floating_point() or tensor.is_complex():
            return f"{name} is of type {tensor.dtype}"
    further = [str(name) for name in state if name not in like]
    return f"with {further[0][:80]!r} as well" if further else ""


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Weights into a module of the same sizes.

    Raises:
        EconError: as :func:`check_weights`.
    """
    check_weights(state, module.state_dict(), source)
    module.load_state_dict(state)
