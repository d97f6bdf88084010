r"""The paper's figures from tensors, as PNG files.

============================  =====================================================
:func:`decomposition_strip`   Figs. 4 and 8: one scene, layer by layer
:func:`decomposition_grid`    several scenes, each layer as visible and as completed
:func:`expert_samples`        Figs. 1B, 5 and 6: a row of objects per expert
:func:`build_up`              Figs. 1C and 7: scenes composited layer by layer
:func:`contact_sheet`         Fig. 1A: any images
============================  =====================================================

Panels are enlarged by integer factors (:mod:`econ_pyro.viz.panels`). Every expert has the same
colour in all figures. Training curves are in :mod:`econ_pyro.viz.training_curves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.viz import panels
from econ_pyro.viz.panels import Label

STRIP_PANEL = 128  # approximate width of a panel in a strip, in sheet pixels
SHEET_PANEL = 96  # approximate width of a panel in all other figures


def decomposition_strip(
    decomposition: Decomposition, names: Sequence[str], path: str | Path
) -> Path:
    """Draw one scene as in Fig. 4: one row per layer, front to back.

    The columns are the scope before the layer, the region, the whole appearance, its visible part
    and the unoccluded shape. The image, its reconstruction and its segmentation are on the left.

    Args:
        decomposition: decomposition of at least one image; the first is drawn.
        names: names of the K experts.
        path: path of the PNG file.
    """
    d = decomposition[:1].cpu()
    scale = panels.scale_for(d.image.shape[3], STRIP_PANEL)
    layers = zip(d.scope[0], d.region[0], d.mean[0], d.shape[0], strict=True)
    tiles = [
        [
            panels.panel(s, scale),
            panels.panel(r, scale),
            panels.panel(mu, scale),
            panels.over_checker(r * mu, r, scale, premultiplied=True),
            panels.panel(m, scale),
        ]
        for s, r, mu, m in layers
    ]
    rows = [
        Label(names[k], f"layer {i + 1}", colour)
        for i, (k, colour) in enumerate(zip(d.k[0].tolist(), _colours(d), strict=True))
    ]
    columns = [
        Label("scope", "s"),
        Label("region", "r"),
        Label("appearance", "μ"),
        Label("seen", "r · μ"),
        Label("shape", "m"),
    ]
    overview = [
        [panels.panel(d.image[0], scale)],
        [panels.panel(d.reconstruction[0], scale)],
        [_segments(d, scale)],
    ]
    labels = [Label("image"), Label("reconstruction"), Label("segments")]
    left = panels.grid(overview, rows=labels)
    sheet = _beside_top(left, panels.grid(tiles, rows, columns))
    return panels.save(panels.framed(sheet), path)


def decomposition_grid(
    decomposition: Decomposition, names: Sequence[str], path: str | Path, limit: int = 4
) -> Path:
    """Draw several scenes side by side, three columns each.

    The top row is the image, its reconstruction and its segmentation. Below, each layer has a
    row: the visible part of the layer, the layer completed behind its occluders, and the
    shape.

    Args:
        decomposition: decomposition of B images.
        names: names of the K experts.
        path: path of the PNG file.
        limit: maximum number of scenes.
    """
    d = decomposition[:limit].cpu()
    if not len(d):
        raise EconError("a decomposition of at least one image", "none")
    rows = [Label(f"layer {i + 1}") for i in range(d.k.shape[1])]
    sheet = _block(d[0], rows)
    for b in range(1, len(d)):
        sheet = panels.beside(sheet, _block(d[b], ()))
    if d.experts:
        sheet = panels.above(sheet, panels.legend(names))
    return panels.save(panels.framed(sheet), path)


def expert_samples(
    mean: Tensor,
    shape: Tensor,
    names: Sequence[str],
    path: str | Path,
    training: Tensor | None = None,
) -> Path:
    """Draw samples of each expert as in Figs. 1B and 6, on a checkerboard with the shape as alpha.

    Args:
        mean: appearances, ``(K, n, 3, H, W)`` in [0, 1].
        shape: shape probabilities, ``(K, n, 1, H, W)``.
        names: names of the K experts.
        path: path of the PNG file.
        training: training images for the top row, ``(N, 3, H, W)``; the first n are drawn.
    """
    scale = panels.scale_for(mean.shape[-1], SHEET_PANEL)
    tiles = [
        [panels.over_checker(x, m, scale) for x, m in zip(*row, strict=True)]
        for row in zip(mean, shape, strict=True)
    ]
    rows = [Label(name, colour=panels.expert_colour(k)) for k, name in enumerate(names)]
    sheet = panels.grid(tiles, rows)
    if training is not None and len(training):
        images: list[np.ndarray | None] = [panels.panel(x, scale) for x in training]
        images = (images + [None] * mean.shape[1])[: mean.shape[1]]
        sheet = panels.above(panels.grid([images], [Label("training data")]), sheet)
    return panels.save(panels.framed(sheet), path)


def build_up(
    canvases: Tensor,
    path: str | Path,
    k: Tensor | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Draw scenes layer by layer as in Fig. 7: one column per scene, one row per layer.

    Args:
        canvases: scenes with 1 to T layers, composited back to front, ``(B, T, 3, H, W)``.
        path: path of the PNG file.
        k: expert of the layer added last, ``(B, T)``, in the order of ``canvases``.
        names: names of the experts, for a legend; requires ``k``.
    """
    scale = panels.scale_for(canvases.shape[-1], SHEET_PANEL)
    slots = canvases.shape[1]
    tiles = [[panels.panel(x, scale) for x in canvases[:, i]] for i in range(slots)]
    rows = [Label("1 layer"), *(Label(f"{i} layers") for i in range(2, slots + 1))]
    if k is None:
        return panels.save(panels.framed(panels.grid(tiles, rows)), path)
    bars = [[panels.expert_colour(j) for j in row] for row in k.T.tolist()]
    sheet = panels.grid(tiles, rows, bars=bars)
    if names:
        sheet = panels.above(sheet, panels.legend(names))
    return panels.save(panels.framed(sheet), path)


def contact_sheet(
    images: Tensor,
    path: str | Path,
    columns: int | None = None,
    width: int = SHEET_PANEL,
    names: Sequence[str] = (),
) -> Path:
    """Draw images in rows.

    Args:
        images: ``(N, 3, H, W)`` or ``(N, 1, H, W)`` in [0, 1].
        path: path of the PNG file.
        columns: images per row; default: about the number of rows.
        width: approximate width of a panel in pixels.
        names: names of the rows.
    """
    scale = panels.scale_for(images.shape[-1], width)
    across = columns or ceil(sqrt(len(images)))
    tiles = [panels.panel(x, scale) for x in images]
    rows = [tiles[i : i + across] for i in range(0, len(tiles), across)]
    return panels.save(panels.framed(panels.grid(rows, [Label(name) for name in names])), path)


def _block(d: Decomposition, rows: Sequence[Label]) -> Image.Image:
    """One scene of :func:`decomposition_grid`."""
    scale = panels.scale_for(d.image.shape[3], SHEET_PANEL)
    top = [
        panels.panel(d.image[0], scale),
        panels.panel(d.reconstruction[0], scale),
        _segments(d, scale),
    ]
    tiles = [
        [
            panels.over_checker(r * mu, r, scale, premultiplied=True),
            panels.over_checker(mu, m, scale),
            panels.panel(m, scale),
        ]
        for r, mu, m in zip(d.region[0], d.mean[0], d.shape[0], strict=True)
    ]
    bars = [[colour] * 3 for colour in _colours(d)]
    upper = panels.grid([top], columns=[Label("image"), Label("model"), Label("segments")])
    labels = [Label("seen"), Label("complete"), Label("shape")]
    return panels.above(upper, panels.grid(tiles, rows, labels, bars))


def _colours(d: Decomposition) -> list[tuple[int, int, int]]:
    """Colour of each layer: of its expert, or of its number where there are no experts."""
    layers = d.k[0].tolist() if d.experts else range(d.k.shape[1])
    return [panels.expert_colour(k) for k in layers]


def _segments(d: Decomposition, scale: int) -> np.ndarray:
    """Layers in their colours, with white lines between layers."""
    layer = d.segmentation[0]
    colours = torch.tensor(_colours(d)) / 255  # (T, 3)
    pixels = panels.panel(colours[layer].permute(2, 0, 1), scale)
    big = layer.numpy().repeat(scale, axis=0).repeat(scale, axis=1)
    pixels[1:][big[1:] != big[:-1]] = 255
    pixels[:, 1:][big[:, 1:] != big[:, :-1]] = 255
    return pixels


def _beside_top(left: Image.Image, right: Image.Image) -> Image.Image:
    """Align the first panels of the overview and of the layers, which have column labels."""
    head = 2 * (panels.TEXT + 4) + panels.GAP
    lowered = Image.new("RGB", (left.width, max(left.height + head, right.height)), panels.PAPER)
    lowered.paste(left, (0, head))
    if right.height < lowered.height:
        raised = Image.new("RGB", (right.width, lowered.height), panels.PAPER)
        raised.paste(right, (0, 0))
        right = raised
    return panels.beside(lowered, right)
