"""Experts as parts: what one is, the file that holds one alone, and whether it fits a model.

A file is safetensors; its metadata has the expert's name and the sizes of its networks, so that it
can be put into another model, or be built anew, without the run that it comes from.
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
from econ_pyro.errors import EconError
from econ_pyro.evaluation.specialisation import distinct_names, is_named
from econ_pyro.files.tensor_file import read_tensors, write_tensors
from econ_pyro.files.untrusted import parse_json
from econ_pyro.model_config import EconConfig, ExpertConfig
from econ_pyro.naming import check_names
from econ_pyro.training.format1 import upgraded_expert, upgraded_weights

NETWORKS = ("decoder", "attention", "encoder")
# what weights began with; trained ones may differ
INITIAL = {"attention.bias", "shape_bias", "attention.place_weight"}


@dataclass(frozen=True)
class Expert:
    """One expert: three networks, a name, and the sizes that make it fit a model."""

    index: int
    name: str
    decoder: nn.Module
    attention: nn.Module
    encoder: nn.Module
    config: ExpertConfig
    size: int
    """Height and width of the images, in pixels."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The three networks by name."""
        return {name: getattr(self, name) for name in NETWORKS}


class Stored(NamedTuple):
    """What an expert's file holds."""

    name: str
    config: ExpertConfig
    size: int
    tensors: dict[str, Tensor]


def save_expert(path: Path, expert: Expert) -> None:
    """An expert alone, as a safetensors file."""
    tensors = {
        f"{part}.{name}": tensor
        for part, network in expert.networks.items()
        for name, tensor in network.state_dict().items()
    }
    about = {
        "name": expert.name,
        "size": str(expert.size),
        "expert": json.dumps(to_dict(expert.config)),
        "format": str(FORMAT),
    }
    write_tensors(path, tensors, about)


def read_expert(path: Path) -> Stored:
    """What an expert's file holds.

    Raises:
        EconError: the file is missing, damaged or no expert.
    """
    about, tensors = read_tensors(path, "an expert's safetensors file")
    missing = [field for field in ("name", "size", "expert") if field not in about]
    if missing:
        raise EconError(
            f"an expert's name and sizes in {path}",
            f"a file without them ({missing[0]})",
            "such files are in experts/ of a run; an old run writes them again with "
            "svi_train.py --resume",
        )
    check_names([about["name"]], str(path))
    version = parse_json(about["format"], str(path)) if "format" in about else None
    values = upgraded_expert(parse_json(about["expert"], str(path)), version, str(path))
    config = from_dict(ExpertConfig, values, str(path))
    size = parse_json(about["size"], str(path))
    model = EconConfig(num_experts=1, num_slots=1, size=size, expert=config)  # checks the size
    return Stored(about["name"], config, model.size, upgraded_weights(tensors))


def check_fits(name: str, config: ExpertConfig, size: int, model: EconConfig) -> None:
    """Check that an expert of these sizes can be one of a model's.

    Raises:
        EconError: a size differs; the message names its field.
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
    """Options and their two values, kinds first; of parts of different kinds the kind alone."""
    found = []
    for field in dataclasses.fields(own):
        name, a = f"{above}{field.name}", getattr(own, field.name)
        b = getattr(wanted, field.name)
        if name in INITIAL:
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
    """Weights of one expert into another of the same sizes."""
    for part, network in target.networks.items():
        network.load_state_dict(source.networks[part].state_dict())


def given_names(experts: Sequence[Expert]) -> tuple[str, ...]:
    """Names that experts keep in another model; empty for those that were only numbered."""
    given = [e.name if is_named(e.name) else "" for e in experts]
    return tuple(n if own else "" for n, own in zip(distinct_names(given), given, strict=True))
