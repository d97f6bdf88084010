"""Files of the layers of scenes: transparent PNGs, OpenRaster and ``scene.json``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.evaluation import matching
from econ_pyro.files import storage
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.io import scene_file
from econ_pyro.io.openraster import RasterLayer, merge, on_canvas, write_ora
from econ_pyro.io.rendering import RenderedScene
from econ_pyro.io.scene_file import Scene
from econ_pyro.viz import figures, gif

MASK_THRESHOLD = 0.5  # of the shape probability, for amodal masks
ORA_FILE = "layers.ora"
"""Name of the OpenRaster file."""
Format = Literal["png", "ora"]
"""Formats of layers: one transparent PNG per layer, or one OpenRaster file."""
PNG: tuple[Format, ...] = ("png",)
RENDERED_FILES = r"layer-\d+\.png|layers\.ora|composed\.png|build-up\.gif|scene\.json"
"""Regular expression of the files of a rendered scene."""


def check_formats(formats: Sequence[Format]) -> None:
    """Check the formats that a user chose.

    Raises:
        EconError: there is no format, or a format is repeated.
    """
    if not formats or len({*formats}) < len(formats):
        got = " ".join(formats) or "none"
        raise EconError("png, ora or both, each once, for --format", got)


def to_bytes(image: Tensor) -> np.ndarray:
    """Convert ``(C, H, W)`` in [0, 1] to ``(H, W, C)`` uint8; other values are clipped."""
    scaled = image.detach().cpu().float().clamp(0, 1) * 255
    return scaled.round().byte().permute(1, 2, 0).numpy()


def write_image(path: Path, image: Tensor) -> None:
    """Write an image ``(3 or 4, H, W)`` in [0, 1] as an RGB or RGBA PNG."""
    write_pixels(path, to_bytes(image))


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Write an image ``(H, W, 3 or 4)`` uint8 as an RGB or RGBA PNG."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    storage.write_atomically(path, lambda p: image.save(p, format="PNG"))


def layer_name(name: str, number: int) -> str:
    """Name of a layer in image editors, with its number from the front, from 1."""
    return f"{name} (layer {number})"


def raster_layers(
    scene: Scene, rendered: RenderedScene, names: Sequence[str]
) -> list[RasterLayer]:
    """Convert a rendered scene to raster layers, front to back, each of the size of the canvas.

    Args:
        scene: the scene.
        rendered: the rendered scene.
        names: names of the experts.
    """
    rows = zip(scene.layers, rendered.layers, strict=True)
    return [
        RasterLayer(layer_name(names[layer.expert], i + 1), to_bytes(x), visible=layer.visible)
        for i, (layer, x) in enumerate(rows)
    ]


def write_layers(
    folder: Path,
    layers: Sequence[RasterLayer],
    width: int,
    height: int,
    formats: Collection[Format] = PNG,
) -> None:
    """Write ``layer-1.png``, ... (each of the size of the canvas) and ``layers.ora``.

    A PNG file cannot be marked as hidden. The file of a hidden layer is therefore fully
    transparent, so that the composite of all files is the image; ``layers.ora`` keeps its pixels.

    Args:
        folder: output folder, created if needed.
        layers: layers, front to back.
        width: width of the canvas in pixels.
        height: height of the canvas in pixels.
        formats: formats to write.
    """
    if "png" in formats:
        for i, layer in enumerate(layers):
            pixels = on_canvas(layer, width, height)
            if not layer.visible:
                pixels = np.zeros_like(pixels)
            write_pixels(folder / f"layer-{i + 1}.png", pixels)
    if "ora" in formats:
        write_ora(folder / ORA_FILE, layers, width, height)


def flatten(layers: Sequence[RasterLayer], size: int) -> np.ndarray:
    """Composite layers to one image, ``(H, W, 3)`` uint8, or with alpha if it is transparent.

    The composite uses the 8-bit values of the layers, so it is bit-identical to that of other
    programs that open the files. The rendered scene differs from it by rounding at soft edges.

    Args:
        layers: layers, as from :func:`raster_layers`.
        size: height and width in pixels.
    """
    pixels = np.asarray(merge(layers, size, size))
    return pixels[..., :3] if (pixels[..., 3] == 255).all() else pixels


def write_rendered(
    folder: Path,
    scene: Scene,
    rendered: RenderedScene,
    names: Sequence[str],
    formats: Collection[Format] = PNG,
) -> None:
    """Write the layers, ``composed.png`` and ``build-up.gif`` of a rendered scene.

    Args:
        folder: output folder, created if needed.
        scene: the scene.
        rendered: the rendered scene.
        names: names of the experts.
        formats: formats of the layers.
    """
    layers = raster_layers(scene, rendered, names)
    write_layers(folder, layers, scene.size, scene.size, formats)
    write_pixels(folder / "composed.png", flatten(layers, scene.size))
    gif.build_up(rendered.stages[None], folder / "build-up.gif")


def write_scene(
    folder: Path,
    d: Decomposition,
    scene: Scene,
    names: Sequence[str],
    source: str,
    formats: Collection[Format] = PNG,
) -> None:
    """Write ``strip.png`` and ``scene.json`` of a decomposed image.

    Args:
        folder: output folder, created if needed.
        d: decomposition of a single image.
        scene: its scene, from :func:`econ_pyro.io.scene_file.of_decomposition`.
        names: names of the experts.
        source: path of the image.
        formats: formats of the layers.
    """
    figures.decomposition_strip(d, names, folder / "strip.png")
    storage.write_json(folder / "scene.json", scene_json(d, scene, names, source, formats))


def scene_json(
    d: Decomposition,
    scene: Scene,
    names: Sequence[str],
    source: str,
    formats: Collection[Format] = PNG,
) -> dict[str, Any]:
    """Content of ``scene.json`` for a decomposed image.

    It contains the scene (:mod:`econ_pyro.io.scene_file`) and annotations, which are ignored when
    the scene is read. Layers are listed front to back. ``box`` is (left, top, right, bottom) of
    the amodal mask in pixels, right and bottom exclusive, None for an empty mask; ``area`` is the
    area of the mask, ``visible_area`` that of the hard region, both in pixels; ``present`` is
    whether the region has the minimum area.

    Args:
        d: decomposition of a single image.
        scene: its scene.
        names: names of the experts.
        source: path of the image.
        formats: formats of the layers.
    """
    slots = len(scene.layers)
    hard = matching.hard_regions(d.segmentation, slots)  # (1, T, H, W)
    value = scene_file.to_json(scene)
    for i, (layer, entry) in enumerate(zip(scene.layers, value["layers"], strict=True)):
        mask = d.shape[0, i, 0] > MASK_THRESHOLD
        entry |= {
            "t": slots - i,
            "file": f"layer-{i + 1}.png" if "png" in formats else None,
            "class": names[layer.expert],
            "present": layer.visible,
            "area": int(mask.sum()),
            "visible_area": int(hard[0, i].sum()),
            "box": _box(mask),
            "terms": {n: float(v[0, i]) for n, v in zip("xzr", d.terms, strict=True)},
            "scores": [float(s) for s in d.competition_losses[0, i]],
        }
    return {"source": source, **value}


def _box(mask: Tensor) -> list[int] | None:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
