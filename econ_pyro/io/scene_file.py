"""Editable scenes and their files, ``scene.json``.

A scene is a list of layers, front to back. A layer consists of an expert, its latents z, a
translation by (dx, dy) pixels and its visibility. One layer may be the background, which fills the
canvas (footnote 2 of the paper). :mod:`econ_pyro.io.rendering` renders scenes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from econ_pyro import naming
from econ_pyro.errors import EconError, command, describe, printable
from econ_pyro.evaluation import matching
from econ_pyro.files import untrusted
from econ_pyro.infer.decomposition import Decomposition

VERSION = 1
"""Version of the format of ``scene.json``."""
ANNOTATIONS = (
    "t", "file", "class", "present", "area", "visible_area", "box", "terms", "scores",
)  # fmt: skip
"""Fields of a layer in ``scene.json`` that are ignored when the file is read."""
MAX_LAYERS, MAX_LATENTS = 256, 256
MAX_VALUE = 1e6  # maximum of numbers in the file; decoders give finite values up to it


@dataclass(frozen=True)
class Layer:
    """One layer: an object or the background."""

    expert: int
    """Index of the expert."""
    z: tuple[float, ...]
    """Latents, L numbers."""
    dx: float = 0.0
    """Translation to the right in pixels of the model; fractions are interpolated."""
    dy: float = 0.0
    """Translation down in pixels of the model."""
    visible: bool = True
    """Whether the layer is part of the image."""
    background: bool = False
    """Whether the layer fills the canvas regardless of its shape."""


@dataclass(frozen=True)
class Scene:
    """An editable scene."""

    size: int
    """Height and width in pixels, as for the model."""
    layers: tuple[Layer, ...]
    """Layers, front to back."""


def of_decomposition(d: Decomposition, min_area: int | None = None) -> Scene:
    """The scene of a decomposition. Layers that are not present are hidden.

    Args:
        d: decomposition of a single image.
        min_area: minimum area of a present layer in pixels; 0.8% of the image if not given.

    Raises:
        EconError: the decomposition has several images.
    """
    if len(d) != 1:
        raise EconError("a decomposition of one image", f"one of {len(d)}", "take d[0], d[1], ...")
    hard = matching.hard_regions(d.segmentation, d.k.shape[1])
    present = matching.present_layers(hard, min_area)
    background = int(matching.background_layer(hard, present)[0])
    rows = zip(d.k[0].tolist(), d.z[0].tolist(), present[0].tolist(), strict=True)
    return Scene(
        d.image.shape[-1],
        tuple(
            Layer(k, tuple(z), visible=visible, background=i == background)
            for i, (k, z, visible) in enumerate(rows)
        ),
    )


def read_scene(path: Path, names: Sequence[str]) -> Scene:
    """Read a ``scene.json``.

    Args:
        path: path of the file.
        names: names of the experts, which the file may use instead of indices.

    Raises:
        EconError: the file does not exist or is not a valid scene.
    """
    hint = f"{command('decompose')} writes one for each image"
    return parse_scene(untrusted.read_json(path, "a scene.json", hint=hint), names)


def parse_scene(value: Any, names: Sequence[str]) -> Scene:
    """Convert the content of a JSON file to a scene.

    Args:
        value: value from ``json.loads``.
        names: names of the experts.

    Raises:
        EconError: the value is not a valid scene.
    """
    if not isinstance(value, dict) or not isinstance(value.get("layers"), list):
        raise EconError('a scene: an object with a list "layers"', _short(value))
    if value.get("version") != VERSION:
        got = _short(value["version"]) if "version" in value else "none"
        raise EconError(f'"version": {VERSION} in the scene', got, "decompose the image again")
    width, height = (_whole(value, side, "the scene") for side in ("width", "height"))
    if width != height:
        raise EconError("a square scene", f"{width} x {height} pixels")
    layers = value["layers"]
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise EconError(f"1 to {MAX_LAYERS} layers in the scene", str(len(layers)))
    return Scene(width, tuple(_layer(v, i + 1, names) for i, v in enumerate(layers)))


def to_json(scene: Scene) -> dict[str, Any]:
    """Convert a scene to the JSON value that :func:`parse_scene` reads."""
    layers = [{**asdict(layer), "z": list(layer.z)} for layer in scene.layers]
    return {"version": VERSION, "width": scene.size, "height": scene.size, "layers": layers}


def _layer(value: Any, number: int, names: Sequence[str]) -> Layer:
    where = f"layer {number}"
    if not isinstance(value, dict):
        raise EconError(f"{where} as an object", _short(value))
    known = [f.name for f in fields(Layer)]
    unknown = sorted(set(value) - {*known, *ANNOTATIONS})
    if unknown:
        raise EconError(f"fields of {where} among {', '.join(known)}", describe(unknown[0]))
    latents = _field(value, "z", where)
    if not isinstance(latents, list):
        raise EconError(f'a list of numbers "z" of {where}', _short(latents))
    if len(latents) > MAX_LATENTS:
        raise EconError(f'at most {MAX_LATENTS} numbers "z" of {where}', str(len(latents)))
    expert = _field(value, "expert", where)
    if isinstance(expert, str):
        expert = _named(expert, names, where)
    return Layer(
        _whole({"expert": expert}, "expert", where),
        tuple(_number(z, "z", where) for z in latents),
        _number(value.get("dx", 0.0), "dx", where),
        _number(value.get("dy", 0.0), "dy", where),
        _truth(value.get("visible", True), "visible", where),
        _truth(value.get("background", False), "background", where),
    )


def _named(expert: str, names: Sequence[str], where: str) -> int:
    try:
        return naming.find_experts(names, [expert])[0]
    except EconError as error:
        known = naming.join_names(names)
        raise EconError(f"an expert of {where} from {known}", error.got) from None


def _field(value: dict[str, Any], name: str, where: str) -> Any:
    if name not in value:
        got = printable(", ".join(sorted(value)), 100) or "nothing"
        raise EconError(f'"{name}" in {where}', f"only {got}")
    return value[name]


def _whole(value: dict[str, Any], name: str, where: str) -> int:
    number = _field(value, name, where)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_VALUE:
        raise EconError(f'a whole number "{name}" of {where}', _short(number))
    return number


def _number(value: Any, name: str, where: str) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not abs(value) <= MAX_VALUE:  # NaN fails too
        raise EconError(f'a number from -1e6 to 1e6 in "{name}" of {where}', _short(value))
    return float(value)


def _truth(value: Any, name: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise EconError(f'true or false for "{name}" of {where}', _short(value))
    return value


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:  # encoding has a lower limit than reading
        return "lists or objects that are nested too deeply"
    return text if len(text) <= 40 else f"{text[:37]}..."
