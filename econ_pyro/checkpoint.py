"""Files of a run: checkpoints and metrics; :mod:`econ_pyro.parts` has those of experts alone.

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
            "weights of the sizes that are configured",
            f"others in {source} ({reason})",
            "they are from another configuration: restore the config.json that they came with",
        ) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``; a last line cut short by a kill is dropped."""
    return list(_rows(path)) if path.exists() else []


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
