"""``config.json``: the configuration and data of a run or of published weights."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple, get_args

import numpy
import pyro
import torch

from econ_pyro import limits
from econ_pyro._version import __version__
from econ_pyro.config import FORMAT, Config, from_dict, to_dict
from econ_pyro.data.base import DEFAULT_LIMIT
from econ_pyro.data.resize import Fit, Resample
from econ_pyro.errors import EconError, describe
from econ_pyro.files import storage
from econ_pyro.training import checkpoint
from econ_pyro.training.format1 import upgraded_config


class RunConfig(NamedTuple):
    """Content of ``config.json``."""

    config: Config
    data: Path | None
    """Images of the run; None for generated scenes and for published weights."""
    fit: Fit
    """How images were brought to the size of the model."""
    limit: int
    """Maximum number of images that were read from a file or folder."""
    init_experts: tuple[str, ...]
    """Files of the initial experts, as given on the command line."""
    resample: Resample = "auto"
    """How pixels of another size were made."""


def write_config(folder: Path, run: RunConfig, preset: str) -> None:
    """Write the ``config.json`` of a run, with the versions of what trains it.

    Args:
        folder: of the run.
        run: the content.
        preset: name of the preset that the run began with.
    """
    storage.write_json(
        folder / checkpoint.CONFIG,
        {
            "format": FORMAT,
            "preset": preset,
            "config": to_dict(run.config),
            "data": None if run.data is None else str(run.data),
            "fit": run.fit,
            "resample": run.resample,
            "limit": run.limit,
            "init_experts": run.init_experts,
            "versions": {
                "econ_pyro": __version__,
                "torch": torch.__version__,
                "pyro": pyro.__version__,
                "numpy": numpy.__version__,
            },
            "commit": _commit(),
        },
        checksum=True,
    )


def read_config(folder: Path) -> RunConfig:
    """Read the ``config.json`` of a run or of published weights.

    Raises:
        EconError: the file is missing or damaged, or a value has the wrong type or is out of
            bounds.
    """
    return read_config_file(folder / checkpoint.CONFIG)


def read_config_file(path: Path) -> RunConfig:
    """Read a ``config.json``, or another file with the same content.

    Raises:
        EconError: as :func:`read_config`.
    """
    stored = storage.read_json(path)
    if not isinstance(stored.get("config"), dict):
        raise EconError(f"a configuration of econ-pyro in {path}", "other JSON")
    try:
        values = upgraded_config(stored["config"], stored.get("format"), str(path))
        config = from_dict(Config, values)
    except EconError as error:
        raise EconError(error.expected, f"{error.got}, in {path}", error.hint) from None
    data, fit = stored.get("data"), stored.get("fit", "crop")
    resample = stored.get("resample", "auto")
    limit = stored.get("limit", DEFAULT_LIMIT)
    if data is not None and (not isinstance(data, str) or not data or "\0" in data):
        raise EconError(f"a path or null as data in {path}", describe(data))
    if fit not in get_args(Fit):
        raise EconError(f"one of {', '.join(get_args(Fit))} as fit in {path}", describe(fit))
    if resample not in get_args(Resample):
        expected = f"one of {', '.join(get_args(Resample))} as resample in {path}"
        raise EconError(expected, describe(resample))
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= limits.MAX_COUNT:
        raise EconError(f"1 to {limits.MAX_COUNT:,} as limit in {path}", describe(limit))
    experts = stored.get("init_experts", [])
    if not isinstance(experts, list) or not all(isinstance(one, str) for one in experts):
        raise EconError(f"a list of files as init_experts in {path}", describe(experts))
    place = None if data is None else Path(data)
    return RunConfig(config, place, fit, limit, tuple(experts), resample)


def _commit() -> str | None:
    """The commit of the source, where it is a Git repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
