"""Layers as files that other tools open: transparent PNGs, OpenRaster and ``scene.json``."""

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
from econ_pyro.io.rendering import Rendered
from econ_pyro.io.scene_file import Scene
from econ_pyro.viz import figures, gif

SHAPE_THRESHOLD = 0.5  # a pixel belongs to an object's full mask from this probability on
LAYERED = "layers.ora"
"""Name of the layered file."""
Format = Literal["png", "ora"]
"""How layers are written: a transparent PNG each, or one layered OpenRaster file."""
PNG: tuple[Format, ...] = ("png",)
PAINTED = r"layer-\d+\.png|layers\.ora|composed\.png|build-up\.gif|scene\.json"
"""Regular expression of the files of a painted scene."""


def check_formats(formats: Sequence[Format]) -> None:
    """Check the formats that a user asked for.

    Raises:
        EconError: none, or one more than once.
    """
    if not formats or len({*formats}) < len(formats):
        got = " ".join(formats) or "none"
        raise EconError("png, ora or both, each once, for --format", got)


def to_bytes(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` in [0, 1] to ``(H, W, C)`` uint8; values outside are clipped."""
    scaled = image.detach().cpu().float().clamp(0, 1) * 255
    return scaled.round().byte().permute(1, 2, 0).numpy()


def write_image(path: Path, image: Tensor) -> None:
    """An RGB or RGBA PNG of ``(3 or 4, H, W)`` in [0, 1]."""
    write_pixels(path, to_bytes(image))


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """The same of ``(H, W, 3 or 4)`` uint8."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    storage.write_atomically(path, lambda p: picture.save(p, format="PNG"))


def layer_name(name: str, step: int) -> str:
    """What a layers panel shows of the layer found in step 1, 2, ..."""
    return f"{name} (step {step})"


def raster_layers(scene: Scene, rendered: Rendered, names: Sequence[str]) -> list[RasterLayer]:
    """The layers of a painted scene, front to back, each as large as the canvas.

    Args:
        scene: what was painted.
        rendered: the painted scene.
        names: of the experts.
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
    """``layer-1.png``, ... as large as the canvas, and ``layers.ora``.

    A PNG file cannot say that it is not to be shown. That of a hidden layer is transparent all
    over, so that all files, one over the other, give the picture; in ``layers.ora`` it is kept.

    Args:
        folder: made if needed.
        layers: front to back.
        width: of the canvas in pixels.
        height: of the canvas in pixels.
        formats: which of the two.
    """
    if "png" in formats:
        for i, layer in enumerate(layers):
            pixels = on_canvas(layer, width, height)
            if not layer.visible:
                pixels = np.zeros_like(pixels)
            write_pixels(folder / f"layer-{i + 1}.png", pixels)
    if "ora" in formats:
        write_ora(folder / LAYERED, layers, width, height)


def composed(layers: Sequence[RasterLayer], size: int) -> np.ndarray:
    """The picture of a scene, ``(H, W, 3)`` uint8; with alpha if some of it is transparent.

    Made of the layers' bytes, as a program does that is given their files: the same to the last
    bit, where the painted scene would differ by roundings at soft edges.

    Args:
        layers: of :func:`raster_layers`.
        size: height and width in pixels.
    """
    pixels = np.asarray(merge(layers, size, size))
    return pixels[..., :3] if (pixels[..., 3] == 255).all() else pixels


def write_painted(
    folder: Path,
    scene: Scene,
    rendered: Rendered,
    names: Sequence[str],
    formats: Collection[Format] = PNG,
) -> None:
    """Layers, ``composed.png`` and ``build-up.gif`` of a painted scene.

    Args:
        folder: made if needed.
        scene: what was painted.
        rendered: the painted scene.
        names: of the experts.
        formats: of the layers.
    """
    layers = raster_layers(scene, rendered, names)
    write_layers(folder, layers, scene.size, scene.size, formats)
    write_pixels(folder / "composed.png", composed(layers, scene.size))
    gif.build_up(rendered.stages[None], folder / "build-up.gif")


def write_scene(
    folder: Path,
    d: Decomposition,
    scene: Scene,
    names: Sequence[str],
    source: str,
    formats: Collection[Format] = PNG,
) -> None:
    """Strip and ``scene.json`` of one decomposed image.

    Args:
        folder: made if needed.
        d: of a single image.
        scene: that was found in it, :func:`econ_pyro.io.scene_file.of_decomposition`.
        names: of the experts.
        source: where the image came from.
        formats: of the layers.
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
    """What ``scene.json`` says of one decomposed image.

    It can be edited and painted again (:mod:`econ_pyro.io.scene_file`); the rest are notes, which
    are not read. Layers are listed front to back. ``box`` is (left, top, right, bottom) of the
    full mask in pixels, right and bottom exclusive, None for an empty one; ``area`` its pixels;
    ``visible_area`` those of the hard region; ``present`` whether that is large enough to count.

    Args:
        d: of a single image.
        scene: that was found in it.
        names: of the experts.
        source: where the image came from.
        formats: of the layers.
    """
    steps = len(scene.layers)
    hard = matching.hard_regions(d.segmentation, steps)  # (1, T, H, W)
    value = scene_file.to_json(scene)
    for i, (layer, edited) in enumerate(zip(scene.layers, value["layers"], strict=True)):
        mask = d.shape[0, i, 0] > SHAPE_THRESHOLD
        edited |= {
            "t": steps - i,
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
