"""Images and text of the page as HTML.

Images are data URIs, so nothing is written to disk and no route serves files. They are sent at
their own resolution; the browser upscales them by an integer factor without smoothing. All text
is escaped with ``html.escape``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from econ_pyro.io.rendering import RenderedScene
from econ_pyro.io.scene_file import Scene
from econ_pyro.ui.scene_edits import TRAVERSAL_VALUES
from econ_pyro.viz import panels

IMAGE_WIDTH = 256  # approximate width of a scene in CSS pixels
THUMBNAIL_WIDTH = 64  # approximate width of a layer or sample in CSS pixels

CSS = """
.econ img { image-rendering: pixelated; display: block; max-width: none;
  outline: 1px solid var(--border-color-primary); }
.econ figure { margin: 0; }
.econ figcaption { font-size: 0.85rem; margin-top: 0.25rem; color: var(--body-text-color); }
.econ .row { display: flex; flex-wrap: wrap; gap: 0.75rem; padding: 3px; }
.econ .picked img { outline: 3px solid var(--color-accent); }
.econ .hidden img { opacity: 0.35; }
.econ .chip { display: inline-block; width: 0.7em; height: 0.7em; margin-right: 0.35em; }
.econ h3 { margin: 0.75rem 0 0.35rem; font-size: 1rem; font-weight: 600; }
.econ.scroll { overflow-x: auto; max-width: 100%; }
.econ table { border-collapse: separate; border-spacing: 6px; }
.econ th, .econ td { padding: 0 !important; border: 0 !important; font-size: 0.85rem;
  font-weight: normal; text-align: center; }
.econ th[scope=row] { text-align: left; white-space: nowrap; }
.econ p { margin: 0; }
.econ .error { border-left: 4px solid #c0392b; padding: 0.4rem 0.75rem; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); }
/* keep the image in view while scrolling through its controls */
.sticky { position: sticky; top: 0; align-self: flex-start; z-index: 5; }
@media (max-width: 700px) { .sticky { background: var(--body-background-fill); } }
@media (max-height: 700px) { .sticky { position: static; } }
"""


def data_uri(content: bytes, mime: str) -> str:
    """Encode bytes as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def png(picture: np.ndarray) -> bytes:
    """Encode an image ``(H, W, 3 or 4)`` uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def message(text: str = "", error: bool = False) -> str:
    """A message; errors are announced to screen readers."""
    if not text:
        return ""
    kind = 'class="error" role="alert"' if error else 'class="note" role="status"'
    return f'<div class="econ"><p {kind}>{escape(text)}</p></div>'


def pictures(rendered: RenderedScene, given: Tensor | None = None) -> str:
    """The rendered scene next to the image of which it is the decomposition.

    Args:
        rendered: the rendered scene.
        given: the image, ``(3, H, W)`` in [0, 1].
    """
    figures = []
    if given is not None:
        uri = data_uri(png(panels.panel(given, 1)), "image/png")
        figures.append(
            _figure(uri, given.shape[-1], IMAGE_WIDTH, "Your image", "input of the model")
        )
    image = rendered.image
    figures.append(
        _figure(
            _rgba(image), image.shape[-1], IMAGE_WIDTH, "Rendered from the layers", "", "scene"
        )
    )
    return _block("".join(figures))


def layers(rendered: RenderedScene, scene: Scene, names: Sequence[str], picked: int) -> str:
    """All layers, front to back, each with its whole object on a checkerboard.

    Args:
        rendered: the rendered scene.
        scene: the scene.
        names: names of the experts.
        picked: index of the layer to highlight.
    """
    figures = []
    rows = zip(scene.layers, rendered.layers, strict=True)
    for i, (layer, rgba) in enumerate(rows):
        words = layer_name(scene, i, names)
        note = "" if layer.visible else "hidden"
        kind = f"layer{'' if layer.visible else ' hidden'}{' picked' if i == picked else ''}"
        chip = _chip(layer.expert)
        figures.append(_figure(_rgba(rgba), scene.size, THUMBNAIL_WIDTH, words, note, kind, chip))
    return _block("".join(figures))


def layer_name(scene: Scene, i: int, names: Sequence[str]) -> str:
    """Name of a layer on the page."""
    return f"{i + 1}. {names[scene.layers[i].expert]}"


def expert_samples(samples: Tensor, names: Sequence[str]) -> str:
    """Samples of each expert.

    Args:
        samples: ``(K, n, 4, H, W)`` in [0, 1].
        names: names of the experts.
    """
    size = samples.shape[-1]
    parts = []
    for k, row in enumerate(samples):
        thumbs = "".join(
            _img(_rgba(x), size, THUMBNAIL_WIDTH, f"sample {i + 1} of {names[k]}")
            for i, x in enumerate(row)
        )
        parts.append(f'<h3>{_chip(k)}{escape(names[k])}</h3><div class="row">{thumbs}</div>')
    return f'<div class="econ wall">{"".join(parts)}</div>'


def traversals(samples: Tensor, values: Sequence[float] = TRAVERSAL_VALUES) -> str:
    """Latent traversals, one row per latent and one column per value.

    Args:
        samples: ``(L, n, 4, H, W)`` in [0, 1].
        values: the n values.
    """
    size = samples.shape[-1]
    head = "".join(f'<th scope="col">{_signed(value)}</th>' for value in values)
    rows = []
    for latent, row in enumerate(samples):
        alts = [f"latent {latent + 1} at {_signed(value)}" for value in values]
        images = [_img(_rgba(x), size, THUMBNAIL_WIDTH, a) for x, a in zip(row, alts, strict=True)]
        cells = "".join(f"<td>{image}</td>" for image in images)
        rows.append(f'<tr><th scope="row">Latent {latent + 1}</th>{cells}</tr>')
    table = f"<table><tr><td></td>{head}</tr>{''.join(rows)}</table>"
    # focusable, so that a table wider than the window can be scrolled with the keyboard
    return (
        '<div class="econ scroll" tabindex="0" role="region" aria-label="Latent traversals">'
        f"{table}</div>"
    )


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _block(content: str) -> str:
    return f'<div class="econ"><div class="row">{content}</div></div>'


def _figure(
    uri: str, size: int, width: int, words: str, note: str, kind: str = "", chip: str = ""
) -> str:
    alt = f"{words}, {note}" if note else words
    caption = f"{chip}{escape(words)}{f'<br>{escape(note)}' if note else ''}"
    image = _img(uri, size, width, alt)
    return f'<figure class="{kind}">{image}<figcaption>{caption}</figcaption></figure>'


def _img(uri: str, size: int, width: int, alt: str) -> str:
    fits = size <= width
    side = size * panels.scale_for(size, width) if fits else width
    style = "" if fits else ' style="image-rendering:auto"'  # smooth when downscaling
    return f'<img src="{uri}" width="{side}" height="{side}" alt="{escape(alt)}"{style}>'


def _rgba(image: Tensor) -> str:
    """Data URI of an image ``(4, H, W)`` on a checkerboard."""
    return data_uri(png(panels.over_checker(image[:3], image[3:], 1)), "image/png")


def _chip(expert: int) -> str:
    r, g, b = panels.expert_colour(expert)
    return f'<span class="chip" style="background:rgb({r},{g},{b})"></span>'
