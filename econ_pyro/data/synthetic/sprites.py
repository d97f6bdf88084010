r"""Sprites as objects: a folder of PNG files with transparent backgrounds.

A sprite is cropped to its pixels that are not fully transparent, centred in a square with its
longer side, and stored as R by R texels with premultiplied alpha. A pixel of a scene is the mean
of a grid of samples; the sample at offset d from the object's centre takes the texel

.. math:: \lfloor R \, (\tfrac{1}{256 S} M d + \tfrac{1}{2}) \rfloor,

with S, M and d as in :mod:`econ_pyro.data.synthetic.shapes`, in fixed point with 20 fractional
bits. Scenes are composited back to front, :math:`x \leftarrow p_n + (1 - \alpha_n) x`, in integer
multiples of 1/255, so they are bit-identical on every device. The mask is :math:`\alpha_n > 1/2`:
images are blended at edges, masks are binary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.images import decode_cutout
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.backgrounds import Backgrounds
from econ_pyro.data.synthetic.layout import (
    SceneLayout,
    channel_values,
    further_bits,
    sample_layout,
)
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import walk
from econ_pyro.scene_config import DEFAULT_CLASSES, SceneConfig

MAX_CLASSES = 127
"""Maximum number of classes, as labels are stored in signed bytes."""
_GRID = 3  # samples per pixel and axis; odd, as with even numbers edges can cover exactly half
_MAX_TEXELS = 256  # per side of a sprite; more would not be visible
_MAX_TOTAL_TEXELS = 1 << 24  # of all sprites, 40 bytes each while they are prepared
_MAX_SIDE = 4096  # pixels per side of a file, as several copies are held in memory
_FRACTION = 20  # fractional bits of a texel's coordinate
_ONE = 256  # cosine of 0, as in shapes
_LANE = 16  # bits per channel of a packed texel, enough for the sum of a pixel's samples
_WORKING_SET = 1 << 18  # samples processed at a time, to fit the CPU cache


def find_sprites(folder: Path | str) -> dict[str, list[Path]]:
    """Find the files of each class: a class is a PNG file, or a subfolder with PNG files.

    Raises:
        EconError: the folder does not exist or has no PNG files, two classes have the same name,
            or a PNG file is not a regular file.
    """
    found: dict[str, list[Path]] = {}
    root = Path(folder)
    files, irregular = walk(root, "images")
    for path, error in irregular.items():
        if path.suffix.lower() == ".png":
            raise error
    for path in files:
        if path.suffix.lower() != ".png":
            continue
        top = path.relative_to(root).parts[0]
        name = top if path.parent != root else path.stem
        others = found.setdefault(name, [])
        if others and (path.parent == root or others[0].parent == root):
            raise EconError(
                f"sprites called {name} in one place", f"{others[0]} and {path}", "move one"
            )
        others.append(path)
    if not found:
        raise EconError(
            "PNG files with transparent backgrounds", f"{root}, without PNG files",
            "see scripts/make_sprites.py",
        )  # fmt: skip
    return found


def sprite_classes(config: SceneConfig) -> tuple[str, ...]:
    """Names of the classes in scenes: the chosen ones, or all in the folder.

    Raises:
        EconError: a chosen class does not exist, there are too many classes, or their number
            differs from the number of weights.
    """
    assert config.sprites is not None
    found = find_sprites(config.sprites)
    classes = tuple(found) if config.classes == DEFAULT_CLASSES else config.classes
    if missing := [name for name in classes if name not in found]:
        known = ", ".join([*found][:20]) + (", ..." if len(found) > 20 else "")
        raise EconError(f"classes among {known}", repr(missing[0]))
    if len(classes) > MAX_CLASSES:
        raise EconError(
            f"at most {MAX_CLASSES} classes of sprites", f"{len(classes)} in {config.sprites}",
            "choose some with classes",
        )  # fmt: skip
    if config.class_weights is not None and len(config.class_weights) != len(classes):
        raise EconError(
            f"one class weight for each of {', '.join(classes)}",
            f"{len(config.class_weights)} weights",
        )
    return classes


@dataclass(frozen=True)
class SpriteLayout(SceneLayout):
    """Layouts of scenes, maybe in front of pictures."""

    picture: Tensor | None
    """Number of a picture, and the row and column at which it starts, :math:`(B, 3)` int64."""


class SpriteSet:
    """Sprites; each file is a variant of its class.

    Args:
        config: distribution of the scenes; ``sprites`` is the folder, ``backgrounds`` that of
            pictures behind them.

    Raises:
        EconError: a folder does not exist, or a file is not a sprite or a picture.
    """

    def __init__(self, config: SceneConfig) -> None:
        assert config.sprites is not None
        self.classes, self.size = sprite_classes(config), config.size
        self.rotate = config.rotate
        self._backgrounds = Backgrounds(config.backgrounds) if config.backgrounds else None
        files = find_sprites(config.sprites)
        self._longest = math.ceil(config.object_size[1] * config.size)  # pixels
        self._texels = min(_GRID * self._longest, _MAX_TEXELS)
        variants = [file for name in self.classes for file in files[name]]
        most = _MAX_TOTAL_TEXELS // self._texels**2
        if len(variants) > most:
            raise EconError(
                f"at most {most:,} sprites at {config.size} pixels, all of which are in memory",
                f"{len(variants):,} in {config.sprites}", "choose some with classes",
            )  # fmt: skip
        each = [load_sprite(file, self._texels) for file in variants]
        texels = torch.from_numpy(np.stack(each)).long()  # (variants, R, R, 4)
        self.palette = _mean_colours(texels)
        self._extents = torch.stack([_extents(sprite[..., 3]) for sprite in texels])
        counts = torch.tensor([len(files[name]) for name in self.classes])
        self._variants = torch.stack([counts.cumsum(0) - counts, counts], 1)  # first and number
        # pad by one transparent texel for samples outside, and pack all channels into one word
        texels = torch.nn.functional.pad(texels, (0, 0, 1, 1, 1, 1))
        lanes = torch.arange(4) * _LANE
        self._packed = (texels << lanes).sum(-1).flatten()

    def sample(self, config: SceneConfig, seed: int, indices: Tensor) -> SpriteLayout:
        """Layouts of scenes."""
        picture = background = None
        if self._backgrounds is not None:
            u = further_bits(config, seed, indices, 3)[:, -1]
            picture = self._backgrounds.choose(u, self.size)
            background = self._backgrounds.means(picture)
        layout = sample_layout(config, self, seed, indices, background)
        values = {field.name: getattr(layout, field.name) for field in fields(layout)}
        return SpriteLayout(**values, picture=picture)

    def choose(self, label: Tensor, u: Tensor) -> Tensor:
        """Choose one of the files of each class, with equal probability."""
        first, number = self._variants.to(label.device)[label].unbind(-1)
        return first + counter_rng.below(u, number)

    def extents(self, variant: Tensor, side: Tensor, turn: Tensor) -> Tensor:
        """Extents of objects from their centres."""
        table = self._extents.to(variant.device)
        return shapes.scaled_extents(table[variant, turn], side)

    def draw(self, layout: SpriteLayout) -> tuple[Tensor, Tensor]:
        """Masks and images."""
        rgba = self._layers(layout)  # (B, N, 4, H, W)
        if self._backgrounds is None or layout.picture is None:
            image = layout.background.int()[..., None, None].repeat(1, 1, self.size, self.size)
        else:
            image = self._backgrounds.draw(layout.picture, self.size)
        for layer in rgba.int().unbind(1)[::-1]:
            image = layer[:, :3] + _over_255((255 - layer[:, 3:]) * image)
        return rgba[:, :, 3] > 127, channel_values(image.device)[image]

    def _layers(self, layout: SceneLayout) -> Tensor:
        """Unoccluded objects with premultiplied alpha, ``(B, N, 4, H, W)`` uint8."""
        label, variant = layout.label.flatten(0, 1), layout.variant.flatten(0, 1)
        centre, side, turn, colour = (
            x.flatten(0, 1) for x in (layout.centre, layout.side, layout.turn, layout.colour)
        )
        tint = colour - self.palette.to(variant.device)[variant]
        out = torch.zeros(len(label), 4, self.size, self.size, dtype=torch.uint8).to(label.device)
        window = self._longest * math.sqrt(2) if self.rotate else self._longest
        window = min(math.ceil(window) + 2, self.size)
        corner = (centre // shapes.UNIT - window // 2).clamp(0, self.size - window)
        occupied = torch.nonzero(label >= 0)[:, 0]
        pixel, channel = (torch.arange(k, device=label.device) for k in (window, 4))
        for n in occupied.split(max(1, _WORKING_SET // (window * _GRID) ** 2)):
            values = self._sample(variant[n], centre[n], side[n], turn[n], corner[n], window)
            x, y = (corner[n, axis, None] + pixel for axis in (0, 1))
            index = (n[:, None, None, None], channel[:, None, None], y[:, None, :, None],
                     x[:, None, None, :])  # fmt: skip
            out[index] = _tinted(values, tint[n]).to(torch.uint8)
        return out.unflatten(0, layout.label.shape)

    def _sample(
        self,
        variant: Tensor,
        centre: Tensor,
        side: Tensor,
        turn: Tensor,
        corner: Tensor,
        window: int,
    ) -> Tensor:
        """Objects in their windows, premultiplied alpha, ``(n, 4, window, window)`` int64."""
        r, device = self._texels, variant.device
        sample = torch.arange(window * _GRID, device=device) * shapes.UNIT + shapes.UNIT // 2
        start = (corner * shapes.UNIT - centre) * _GRID  # samples are in units of 1 / _GRID
        dx, dy = (start[:, axis, None] + sample for axis in (0, 1))
        rotation = shapes.rotations().to(device)[turn] * (r << _FRACTION)
        cos, sin = (rotation // (_GRID * _ONE * side[:, None])).split(1, 1)
        half = r << (_FRACTION - 1)
        u, v = (
            (((a * dx + half)[:, None, :] + (b * dy)[:, :, None]) >> _FRACTION)
            .clamp_(-1, r)
            .add_(1)
            for a, b in ((cos, sin), (-sin, cos))
        )
        width = r + 2
        index = v.mul_(width).add_(u).add_((variant * width * width)[:, None, None])
        texel = self._packed.to(device).take(index)
        texel = texel.unflatten(1, (window, _GRID)).sum(2)
        texel = texel.unflatten(2, (window, _GRID)).sum(3)  # (n, window, window), packed sums
        lanes = torch.arange(4, device=device)[:, None, None] * _LANE
        sums = (texel[:, None] >> lanes) & ((1 << _LANE) - 1)
        return (sums + _GRID * _GRID // 2) // (_GRID * _GRID)


def load_sprite(path: Path, texels: int) -> np.ndarray:
    """Load a sprite, cropped to a square, with premultiplied alpha, ``(R, R, 4)`` uint8.

    Raises:
        EconError: the file is not an image, has no alpha channel, or is fully transparent.
    """
    rgba = decode_cutout(path)
    image = Image.fromarray(rgba)
    box = image.getchannel("A").getbbox()
    if box is None or rgba[..., 3].max() <= 127:
        raise EconError("a visible sprite", f"{path}, which is fully transparent")
    image = image.crop(box)
    side = max(image.size)
    if side > _MAX_SIDE:
        raise EconError(
            f"a sprite of at most {_MAX_SIDE:,} pixels per side", f"{path}, with {side:,}",
            "scale it down",
        )  # fmt: skip
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    whole = np.asarray(square).astype(np.uint16)
    whole[..., :3] = (whole[..., :3] * whole[..., 3:] + 127) // 255
    bands = [Image.fromarray(whole[..., c].astype(np.uint8)) for c in range(4)]
    # the mean of a texel's pixels; the nearest pixel if the file has fewer than R
    resized = [band.resize((texels, texels), Image.Resampling.BOX) for band in bands]
    out = np.stack([np.asarray(band) for band in resized], -1)
    return np.minimum(out, out[..., 3:])  # rounding may make a colour exceed its alpha


def _mean_colours(texels: Tensor) -> Tensor:
    total = texels.sum((1, 2))
    colour, alpha = total[:, :3] * 255, total[:, 3:].clamp(min=1)
    return ((colour + alpha // 2) // alpha).clamp(max=255)


def _extents(alpha: Tensor) -> Tensor:
    """Extents of a sprite per angle, ``(TURNS, 4)``, from the first and last texel of each row."""
    r = len(alpha)
    rows = torch.nonzero(alpha.any(1))[:, 0]
    visible = alpha[rows] > 0
    first = visible.int().argmax(1)
    last = r - 1 - visible.flip(1).int().argmax(1)
    ends = [(x, y) for x in (first, last + 1) for y in (rows, rows + 1)]
    points = torch.cat([torch.stack([x, y], 1) for x, y in ends]).double() / r - 0.5
    return shapes.extents_of_points(2 * points)


def _tinted(values: Tensor, tint: Tensor) -> Tensor:
    """Shift the colours of sprites by ``tint``, ``(n, 3)``, clamped to the range of a channel."""
    colour, alpha = values[:, :3], values[:, 3:]
    shifted = colour + (tint[..., None, None] * alpha + 127) // 255
    return torch.cat([torch.minimum(shifted.clamp(min=0), alpha), alpha], 1)


def _over_255(x: Tensor) -> Tensor:
    """Nearest integer to x / 255, for x in 0 to 255^2."""
    x = x + 128
    return (x + (x >> 8)) >> 8
