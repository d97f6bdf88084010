"""OpenRaster files: layered images for GIMP, Krita, MyPaint and other programs.

An ``.ora`` file is a zip archive:

============================  =========================================================
``mimetype``                  first and uncompressed, to identify the format
``stack.xml``                 layers from top to bottom: name, position, opacity, visibility
``data/layer-001.png``, ...   RGBA pixels of each layer without transparent margins
``mergedimage.png``           composite of the visible layers
``Thumbnails/thumbnail.png``  the composite, at most 256 pixels wide and high
============================  =========================================================

Equal layers give identical files, as no timestamps are written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from PIL import Image

from econ_pyro.errors import EconError
from econ_pyro.files.storage import write_atomically

MIMETYPE = "image/openraster"
VERSION = "0.0.3"  # oldest version of the specification with all features that are used
THUMBNAIL = 256  # maximum width and height in the specification
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, eq=False)  # comparing arrays does not give one boolean
class RasterLayer:
    """One layer of an image."""

    name: str
    """Name shown in image editors."""
    pixels: np.ndarray
    """``(H, W, 4)`` uint8, RGB not multiplied by alpha."""
    x: int = 0
    """Column of the left edge on the canvas; may be outside."""
    y: int = 0
    """Row of the upper edge on the canvas; may be outside."""
    visible: bool = True
    """Whether the layer is shown."""
    opacity: float = 1.0
    """Factor of alpha, in [0, 1]."""

    def cropped(self) -> RasterLayer:
        """The layer without transparent margins; one transparent pixel if nothing is left."""
        alpha = self.pixels[..., 3] > 0
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        if not len(rows):
            return RasterLayer(self.name, np.zeros((1, 1, 4), np.uint8), 0, 0, *self._shown)
        top, left = int(rows[0]), int(columns[0])
        pixels = self.pixels[top : rows[-1] + 1, left : columns[-1] + 1]
        return RasterLayer(self.name, pixels, self.x + left, self.y + top, *self._shown)

    @property
    def _shown(self) -> tuple[bool, float]:
        return self.visible, self.opacity


def write_ora(path: Path, layers: Sequence[RasterLayer], width: int, height: int) -> None:
    """Write an OpenRaster file atomically.

    Args:
        path: path of the file.
        layers: layers, front to back.
        width: width of the canvas in pixels.
        height: height of the canvas in pixels.

    Raises:
        EconError: the pixels of a layer are not RGBA uint8, or its opacity is outside [0, 1].
    """
    for layer in layers:
        _check(layer)
    layers = [layer.cropped() for layer in layers]
    image = ElementTree.Element("image", version=VERSION, w=str(width), h=str(height))
    stack = ElementTree.SubElement(image, "stack")
    files: dict[str, bytes] = {}
    for i, layer in enumerate(layers):
        source = f"data/layer-{i + 1:03d}.png"
        files[source] = _png(Image.fromarray(layer.pixels))
        attributes = {
            "name": _NOT_XML.sub("\ufffd", layer.name),
            "src": source,
            "x": str(layer.x),
            "y": str(layer.y),
            "opacity": f"{layer.opacity:g}",
            "visibility": "visible" if layer.visible else "hidden",
            "composite-op": "svg:src-over",
        }
        ElementTree.SubElement(stack, "layer", attributes)
    merged = merge(layers, width, height)
    thumbnail = merged.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    xml = ElementTree.tostring(image, encoding="UTF-8", xml_declaration=True)
    files |= {"mergedimage.png": _png(merged), "Thumbnails/thumbnail.png": _png(thumbnail)}
    write_atomically(path, lambda p: _archive(p, {"stack.xml": xml, **files}))


def merge(layers: Sequence[RasterLayer], width: int, height: int) -> Image.Image:
    """Composite the visible layers on a transparent canvas.

    Args:
        layers: layers, front to back.
        width: width of the canvas in pixels.
        height: height of the canvas in pixels.

    Returns:
        An RGBA image.
    """
    canvas = Image.new("RGBA", (width, height))
    for layer in reversed(layers):
        if not layer.visible:
            continue
        pixels = Image.fromarray(layer.pixels)
        if layer.opacity < 1:
            factor = layer.opacity
            pixels.putalpha(pixels.getchannel("A").point(lambda a, f=factor: round(a * f)))
        canvas.alpha_composite(_placed(pixels, layer, width, height))
    return canvas


def on_canvas(layer: RasterLayer, width: int, height: int) -> np.ndarray:
    """Pixels of a layer on a transparent canvas, ``(height, width, 4)`` uint8."""
    return np.asarray(_placed(Image.fromarray(layer.pixels), layer, width, height))


def _placed(pixels: Image.Image, layer: RasterLayer, width: int, height: int) -> Image.Image:
    canvas = Image.new("RGBA", (width, height))
    canvas.paste(pixels, (layer.x, layer.y))  # crops what lies outside
    return canvas


def _check(layer: RasterLayer) -> None:
    p = layer.pixels
    if p.ndim != 3 or p.shape[2] != 4 or p.dtype != np.uint8 or 0 in p.shape:
        raise EconError(f"pixels (H, W, 4) uint8 of layer {layer.name!r}", f"{p.dtype} {p.shape}")
    if not 0 <= layer.opacity <= 1:
        raise EconError(f"an opacity of {layer.name!r} from 0 to 1", f"{layer.opacity:g}")


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _archive(path: Path, files: dict[str, bytes]) -> None:
    with ZipFile(path, "w") as archive:
        archive.writestr(ZipInfo("mimetype"), MIMETYPE, ZIP_STORED)
        for name, content in files.items():
            # PNGs are already compressed
            compression = ZIP_STORED if name.endswith(".png") else ZIP_DEFLATED
            archive.writestr(ZipInfo(name), content, compression)
