"""Animated GIFs of scenes composited layer by layer, as in Fig. 7."""

from __future__ import annotations

from math import ceil, sqrt
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from econ_pyro.viz import panels
from econ_pyro.viz.figures import SHEET_PANEL

STEP = 700  # duration of a frame in milliseconds
HOLD = 2000  # duration of the last frame


def build_up(painted: Tensor, path: Path) -> Path:
    """Animate scenes side by side, composited back to front, with one frame per layer.

    Args:
        painted: scenes with 1 to T layers, ``(B, T, C, H, W)`` in [0, 1]; C is 3, or 4 with alpha,
            which shows a checkerboard. If T is 0, the checkerboard alone is shown.
        path: path of the GIF file.
    """
    batch, _, channels, height, width = painted.shape
    if not painted.shape[1]:
        painted = painted.new_zeros(batch, 1, channels, height, width)
    scale = panels.scale_for(width, SHEET_PANEL)
    across = ceil(sqrt(batch)) if batch > 8 else batch
    frames = []
    for stage in painted.unbind(1):
        alpha = stage[:, 3:] if channels == 4 else torch.ones_like(stage[:, :1])
        tiles = [panels.over_checker(*x, scale) for x in zip(stage[:, :3], alpha, strict=True)]
        rows = [tiles[i : i + across] for i in range(0, batch, across)]
        frames.append(panels.framed(panels.grid(rows)))
    return write_gif(frames, path)


def write_gif(frames: list[Image.Image], path: Path) -> Path:
    """Write an endlessly looping animation with a longer last frame.

    Args:
        frames: RGB images of one size; each has its own palette of 256 colours.
        path: path of the GIF file.
    """
    first, *rest = (frame.quantize(256, dither=Image.Dither.NONE) for frame in frames)
    duration = [STEP] * len(rest) + [HOLD]
    return panels.write_figure(
        path,
        (".gif",),
        lambda p: first.save(
            p, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0
        ),
    )
