"""``config.json``: the configuration and data of a run or of published weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, get_args

from econ_pyro import limits
from econ_pyro.config import Config, from_dict
from econ_pyro.data.base import DEFAULT_LIMIT
from econ_pyro.data.images import Fit
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


def read_config(folder: Path) -> RunConfig:
    """Read the ``config.json`` of a run or of published weights.

    Raises:
        EconError: the file is missing or damaged, or a value has the wrong type or is out of
            bounds.
    """
    path = folder / checkpoint.CONFIG
    stored = storage.read_json(path)
    if not isinstance(stored.get("config"), dict):
        raise EconError(f"a configuration of econ-pyro in {path}", "other JSON")
    try:
        values = upgraded_config(stored["config"], stored.get("format"), str(path))
        config = from_dict(Config, values)
    except EconError as error:
        raise EconError(error.expected, f"{error.got}, in {path}", error.hint) from None
    data, fit = stored.get("data"), stored.get("fit", "crop")
    limit = stored.get("limit", DEFAULT_LIMIT)
    if data is not None and (not isinstance(data, str) or not data or "\0" in data):
        raise EconError(f"a path or null as data in {path}", describe(data))
    if fit not in get_args(Fit):
        raise EconError(f"one of {', '.join(get_args(Fit))} as fit in {path}", describe(fit))
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= limits.MAX_COUNT:
        raise EconError(f"1 to {limits.MAX_COUNT:,} as limit in {path}", describe(limit))
    experts = stored.get("init_experts", [])
    if not isinstance(experts, list) or not all(isinstance(one, str) for one in experts):
        raise EconError(f"a list of files as init_experts in {path}", describe(experts))
    return RunConfig(config, None if data is None else Path(data), fit, limit, tuple(experts))
