"""Layers as files that other tools open: transparent PNGs, OpenRaster and ``scene.json``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro import files, matching, plots
from econ_pyro.decomposition import Decomposition
from econ_pyro.openraster import RasterLayer, write_ora
from econ_pyro.painting import Rendered
from econ_pyro.scene_file import Scene

SHAPE_THRESHOLD = 0.5  # a pixel belongs to an object's full mask from this probability on
LAYERED = "layers.ora"
"""Name of the layered file."""
Format = Literal["png", "ora"]
"""How layers are written: a transparent PNG each, or one layered OpenRaster file."""


def to_bytes(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` in [0, 1] to ``(H, W, C)`` uint8; values outside are clipped."""
    scaled = image.detach().cpu().float().clamp(0, 1) * 255
    return scaled.round().byte().permute(1, 2, 0).numpy()


def write_image(path: Path, image: Tensor) -> None:
    """An RGB or RGBA PNG of ``(3 or 4, H, W)`` in [0, 1]."""
    write_pixels(path, to_bytes(image))


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """The same of ``(H, W, 3 or 4)`` uint8; RGB where no pixel of four channels is transparent."""
    if pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    files.write_atomically(path, lambda p: picture.save(p, format="PNG"))


def raster_layers(rendered: Rendered, scene: Scene, names: Sequence[str]) -> list[RasterLayer]:
    """The layers of a painted scene, front to back, named by class and step.

    Args:
        rendered: the painted scene.
        scene: what was painted.
        names: of the experts.
    """
    return [
        RasterLayer(f"{names[layer.expert]} (step {i + 1})", to_bytes(x), visible=layer.visible)
        for i, (layer, x) in enumerate(zip(scene.layers, rendered.layers, strict=True))
    ]


def write_layers(
    folder: Path, layers: Sequence[RasterLayer], formats: Collection[Format], size: tuple[int, int]
) -> None:
    """``layer-1.png``, ... front to back, and ``layers.ora``.

    Args:
        folder: made if needed.
        layers: front to back, each as large as the canvas.
        formats: which of the two.
        size: width and height of the canvas.
    """
    if "png" in formats:
        for i, layer in enumerate(layers):
            write_pixels(folder / f"layer-{i + 1}.png", layer.pixels)
    if "ora" in formats:
        write_ora(folder / LAYERED, layers, *size)


def scene_json(d: Decomposition, names: list[str], source: str) -> dict[str, Any]:
    """What ``scene.json`` says of one decomposed image.

    Layers are listed front to back. ``box`` is (left, top, right, bottom) of the full mask in
    pixels, right and bottom exclusive, None for an empty one; ``area`` its pixels;
    ``visible_area`` those of the hard region; ``present`` whether that is large enough to count.

    Args:
        d: of a single image.
        names: of the experts.
        source: where the image came from.
    """
    steps = d.k.shape[1]
    hard = matching.hard_regions(d.segmentation, steps)  # (1, T, H, W)
    present = matching.present_layers(hard)[0]
    background = int(matching.background_layer(hard, present[None])[0])
    layers = []
    for i in range(steps):
        mask, k = d.shape[0, i, 0] > SHAPE_THRESHOLD, int(d.k[0, i])
        layers.append(
            {
                "t": steps - i,
                "file": f"layer-{i + 1}.png",
                "expert": k,
                "class": names[k],
                "present": bool(present[i]),
                "background": i == background,
                "area": int(mask.sum()),
                "visible_area": int(hard[0, i].sum()),
                "box": _box(mask),
                "terms": {n: float(v[0, i]) for n, v in zip("xzr", d.terms, strict=True)},
                "scores": [float(s) for s in d.scores[0, i]],
                "z": [float(v) for v in d.z[0, i]],
            }
        )
    height, width = d.image.shape[2:]
    return {"source": source, "width": width, "height": height, "layers": layers}


def write_scene(folder: Path, d: Decomposition, names: list[str], source: str) -> None:
    """Strip, layers and ``scene.json`` of one decomposed image into a folder.

    Args:
        folder: made if needed.
        d: of a single image.
        names: of the experts.
        source: where the image came from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(d.k.shape[1]):
        rgba = torch.cat([d.mean[0, i], d.shape[0, i]])
        write_image(folder / f"layer-{i + 1}.png", rgba)
    plots.decomposition_strip(d, names, folder / "strip.png")
    files.write_json(folder / "scene.json", scene_json(d, names, source))


def _box(mask: Tensor) -> list[int] | None:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
