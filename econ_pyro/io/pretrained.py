"""Trained weights: reading runs and published folders, and writing the latter.

A published folder contains ``config.json`` and ``experts.json`` as in a run, ``model.safetensors``
and a model card, ``README.md``. The weights installed with the package are such folders in
``econ_pyro/io/weights/``, written by ``python scripts/publish.py RUN econ_pyro/io/weights/NAME``.
Weights on the Hugging Face hub are such folders too; only they require a network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from econ_pyro import arguments
from econ_pyro._version import __version__
from econ_pyro.config import FORMAT, Config, additions, to_dict
from econ_pyro.errors import EconError, check_choice, command, did_you_mean, printable
from econ_pyro.files import storage
from econ_pyro.files.hub import HUB, download
from econ_pyro.files.tensor_file import read_tensors, write_tensors
from econ_pyro.files.untrusted import parse_json
from econ_pyro.infer import scene_model
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.naming import check_names
from econ_pyro.training import checkpoint
from econ_pyro.training.format1 import upgraded_checkpoint, upgraded_weights
from econ_pyro.training.run_config import read_config
from econ_pyro.training.schedules import steps_of

WEIGHTS, CARD, EVALUATION = "model.safetensors", "README.md", "evaluation.json"
SHIPPED = Path(__file__).parent / "weights"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class StoredModel(NamedTuple):
    """Content of a run or a published folder."""

    config: Config
    names: list[str] | None
    weights: dict[str, Tensor]
    extra: dict[str, Any]
    """State of the scene model besides its weights (``SceneModel.extra_state``)."""
    path: Path
    """File of the weights."""


def shipped() -> list[str]:
    """Names of the weights installed with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def find(source: str | Path) -> Path:
    """Find the folder of trained weights; local folders take precedence over shipped weights.

    Args:
        source: a folder, the name of shipped weights, or ``hf:OWNER/NAME`` on the hub.

    Raises:
        EconError: there are no such weights.
    """
    name = str(source)
    if os.path.isdir(source):  # Path.is_dir raises for some names
        return Path(source)
    if os.path.exists(source):
        raise EconError("a run's folder", f"the file {name}", "name the folder of a run")
    if name.startswith(HUB):
        files = [checkpoint.CONFIG, checkpoint.NAMES, WEIGHTS, CARD, EVALUATION]
        return download(name.removeprefix(HUB).strip("/"), files)
    if name in shipped():
        return SHIPPED / name
    known = f" or shipped weights ({', '.join(shipped())})" if shipped() else ""
    hint = (
        f"train a model with {command('train')} quick; weights on the Hugging Face hub are named "
        f"{HUB}OWNER/NAME"
    )
    meant = did_you_mean(name, shipped(), 0.75)
    raise EconError(f"a run's folder{known}", f"no folder {name}", meant or hint)


def load_model(
    source: str | Path, device: torch.device | str = "cpu", which: str = "best"
) -> SceneModel:
    """Load trained weights of any registered scene model; never executes code from them.

    Args:
        source: as for :func:`find`.
        device: where to put the networks.
        which: ``best`` (by validation loss) or ``last`` checkpoint of a run.

    Raises:
        EconError: there is none, it is damaged or of an unknown kind; or there is no such device.
    """
    device = arguments.as_device(device)
    trained = read(source, device, which)
    # before a damaged configuration has memory allocated
    like = scene_model.weights_like(trained.config)
    checkpoint.check_weights(trained.weights, like, trained.path)
    model = scene_model.build(trained.config, device, trained.names)
    model.load_state_dict(trained.weights)
    model.load_extra_state(trained.extra)
    return model


def read(
    source: str | Path, device: torch.device | str = "cpu", which: str = "best"
) -> StoredModel:
    """Read a run or a published folder, without executing code from it.

    Args:
        source: as for :func:`find`.
        device: device of the tensors.
        which: checkpoint of a run: ``best`` (by validation loss) or ``last``.

    Raises:
        EconError: the weights do not exist or are damaged.
    """
    check_choice("a checkpoint", which, ("best", "last"))
    folder = find(source)
    config = read_config(folder).config
    names = None
    if (folder / checkpoint.NAMES).exists():
        names = _names(folder / checkpoint.NAMES, getattr(config.model, "num_experts", 1))
    path = folder / WEIGHTS
    if path.exists():
        metadata, tensors = read_tensors(path, "whole weights")
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                got = f"{printable(name)} of type {tensor.dtype}"
                raise EconError(f"weights of econ-pyro in {path}", got)
        weights = {
            name: tensor.to(device, torch.float32)
            for name, tensor in upgraded_weights(tensors).items()
        }
        return StoredModel(config, names, weights, _extra(metadata, path), path)
    path = folder / {"best": checkpoint.BEST, "last": checkpoint.LAST}[which]
    state = upgraded_checkpoint(checkpoint.load_checkpoint(path, device))
    step = state.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise EconError(f"a checkpoint of econ-pyro in {path}", "one without a step")
    until = steps_of(additions(config).constant_colour_until, config.train.steps)
    extra = {"constant_colour": step <= until}
    return StoredModel(config, names, state.get("weights", {}), extra, path)


def _extra(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Extra state from the metadata of weights; format 1 only has the field ``flat``."""
    if "extra" not in metadata:
        return {"constant_colour": metadata.get("flat") == "true"}
    extra = parse_json(metadata["extra"], str(path))
    if not isinstance(extra, dict):
        raise EconError(f"an object as extra in {path}", "something else")
    return extra


def save(
    folder: Path,
    config: Config,
    names: Sequence[str],
    model: nn.Module,
    extra: Mapping[str, Any],
    dtype: str = "float32",
) -> None:
    """Write a published folder, except its model card.

    Args:
        folder: output folder; existing files are replaced.
        config: configuration of the model.
        names: names of the experts.
        model: the scene model.
        extra: as in :class:`StoredModel`.
        dtype: type of the stored weights: float32, float16 or bfloat16; they load as float32.

    Raises:
        EconError: the folder is that of a run, the type is unknown, or a weight is not finite in
            this type.
    """
    check_choice("a type of weights", dtype, DTYPES)
    refuse_run(folder)
    tensors: dict[str, Tensor] = {}
    weights = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        kind = DTYPES[dtype] if name in weights else tensor.dtype
        stored = tensor.detach().to(kind)
        if not stored.isfinite().all():
            hint = "use bfloat16 or float32" if tensor.isfinite().all() else "train again"
            raise EconError(f"weights within the range of {kind}", f"others in {name}", hint)
        tensors[name] = stored
    storage.write_json(
        folder / checkpoint.CONFIG,
        {
            "format": FORMAT,
            "config": to_dict(config),
            "dtype": dtype,
            "versions": {"econ_pyro": __version__, "torch": torch.__version__},
        },
        checksum=True,
    )
    storage.write_json(folder / checkpoint.NAMES, {"names": list(names)}, checksum=True)
    write_tensors(folder / WEIGHTS, tensors, {"extra": json.dumps(dict(extra))})


def refuse_run(folder: Path) -> None:
    """Check that a folder for published weights is not that of a run.

    Raises:
        EconError: the folder is that of a run.
    """
    if (folder / checkpoint.LAST).exists():
        raise EconError("a folder of its own for weights", f"the run {folder}", "name another one")


def _names(path: Path, experts: int) -> list[str]:
    names = storage.read_json(path).get("names")
    if not isinstance(names, list) or len(names) != experts:
        got = f"{len(names)}" if isinstance(names, list) else "none"
        raise EconError(f"{experts} different names in {path}", got)
    check_names(names, str(path))
    return names
