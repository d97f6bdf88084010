"""Files of single experts, and checks that an expert fits a model.

The file format is safetensors. The metadata contain the name of the expert and the configuration
of its networks, so that it can be loaded into another model without the run in which it was
trained.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from econ_pyro.config import FORMAT, from_dict, to_dict
from econ_pyro.errors import EconError, command
from econ_pyro.evaluation.specialisation import distinct_names, is_named
from econ_pyro.files.tensor_file import read_tensors, write_tensors
from econ_pyro.files.untrusted import parse_json
from econ_pyro.model_config import EconConfig, ExpertConfig
from econ_pyro.naming import check_names
from econ_pyro.training.format1 import upgraded_expert, upgraded_weights

FORMAT_FIELD = "config_format"  # "format" is safetensors' own: pt
NETWORKS = ("decoder", "attention", "encoder")
# options that only set the initial weights, so that they may differ between experts of a model
INITIAL_ONLY = {"attention.bias", "shape_bias", "attention.place_weight", "kaiming"}


@dataclass(frozen=True)
class Expert:
    """An expert: its networks, name and configuration."""

    index: int
    name: str
    decoder: nn.Module
    attention: nn.Module
    encoder: nn.Module
    config: ExpertConfig
    size: int
    """Height and width of images in pixels."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The three networks by name."""
        return {name: getattr(self, name) for name in NETWORKS}


class StoredExpert(NamedTuple):
    """Content of the file of an expert."""

    name: str
    config: ExpertConfig
    size: int
    tensors: dict[str, Tensor]


def save_expert(path: Path, expert: Expert) -> None:
    """Write an expert to a safetensors file."""
    tensors = {
        f"{part}.{name}": tensor
        for part, network in expert.networks.items()
        for name, tensor in network.state_dict().items()
    }
    metadata = {
        "name": expert.name,
        "size": str(expert.size),
        "expert": json.dumps(to_dict(expert.config)),
        FORMAT_FIELD: str(FORMAT),
    }
    write_tensors(path, tensors, metadata)


def read_expert(path: Path) -> StoredExpert:
    """Read the file of an expert.

    Raises:
        EconError: the file is missing, damaged or not that of an expert.
    """
    metadata, tensors = read_tensors(path, "an expert's safetensors file")
    missing = [field for field in ("name", "size", "expert") if field not in metadata]
    if missing:
        raise EconError(
            f"the name and configuration of an expert in {path}",
            f"a file without {missing[0]}",
            "runs have files of experts in experts/; for an old run, "
            f"{command('train')} PRESET --resume rewrites them",
        )
    check_names([metadata["name"]], str(path))
    stated = metadata.get(FORMAT_FIELD)
    version = None if stated is None else parse_json(stated, str(path))
    values = upgraded_expert(parse_json(metadata["expert"], str(path)), version, str(path))
    config = from_dict(ExpertConfig, values, str(path))
    size = parse_json(metadata["size"], str(path))
    model = EconConfig(num_experts=1, num_slots=1, size=size, expert=config)  # checks the size
    return StoredExpert(metadata["name"], config, model.size, upgraded_weights(tensors))


def check_fits(name: str, config: ExpertConfig, size: int, model: EconConfig) -> None:
    """Check that an expert has the image size and configuration of a model's experts.

    Raises:
        EconError: an option differs; the message names it.
    """
    pairs = [("model.size", size, model.size), *_differences(config, model.expert)]
    for field, own, wanted in pairs:
        if own != wanted:
            raise EconError(
                f"an expert with {field} {wanted}, as the model has",
                f"{own} in {name}",
                f"set {_option(field, own)}",
            )


def _differences(own: Any, wanted: Any, above: str = "") -> list[tuple[str, Any, Any]]:
    """Options with their two values where they differ; of parts of another kind, only the kind."""
    found = []
    for field in dataclasses.fields(own):
        name, a = f"{above}{field.name}", getattr(own, field.name)
        b = getattr(wanted, field.name)
        if name in INITIAL_ONLY:
            continue
        if dataclasses.is_dataclass(a):
            kind: Any = getattr(a, "kind"), getattr(b, "kind")  # noqa: B009 (of any part)
            if kind[0] != kind[1]:
                found.append((f"model.expert.{name}.kind", *kind))
            else:
                found += _differences(a, b, f"{name}.")
        else:
            found.append((f"model.expert.{name}", a, b))
    return found


def _option(field: str, value: Any) -> str:
    group, _, name = field.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{group}.{name if value else f'no-{name}'}"
    return f"--{group}.{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def copy_weights(source: Expert, target: Expert) -> None:
    """Copy the weights of an expert to another one with the same configuration."""
    for part, network in target.networks.items():
        network.load_state_dict(source.networks[part].state_dict())


def custom_names(experts: Sequence[Expert]) -> tuple[str, ...]:
    """Names that experts keep in another model; empty for experts with default names."""
    given = [e.name if is_named(e.name) else "" for e in experts]
    return tuple(n if own else "" for n, own in zip(distinct_names(given), given, strict=True))
