r"""Objects cut from pictures: any folder of PNG files with transparent backgrounds.

A sprite is cropped to what is not fully transparent, centred in a square of its longer side, and
kept at R by R texels, premultiplied by its alpha. A pixel of a scene is the mean over a grid of
samples in it; the sample at distance d from the object's centre takes the texel

.. math:: \lfloor R \, (\tfrac{1}{256 S} M d + \tfrac{1}{2}) \rfloor,

with S, M and d as in :mod:`econ_pyro.data.synthetic.shapes`, in integers (a fraction of 20 bits).
Scenes are then painted back to front, :math:`x \leftarrow p_n + (1 - \alpha_n) x`, in integers of
1/255; so they are the same bits on every device. The mask is :math:`\alpha_n > 1/2`: the image is
blended at edges, the ground truth is not.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.images import decode_cutout
from econ_pyro.data.synthetic import shapes
from econ_pyro.data.synthetic.layout import Plan, levels
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import walk
from econ_pyro.scene_config import DEFAULT_CLASSES, SceneConfig

MAX_CLASSES = 127
"""Largest number of classes: labels are stored in a signed byte."""
_GRID = 3  # samples on each side of a pixel; odd, as an even number lets edges cover one half
_MAX_TEXELS = 256  # on each side of a sprite; more would not be seen
_MOST_TEXELS = 1 << 24  # of all sprites together, 40 bytes each while they are prepared
_MOST_SIDE = 4096  # pixels of a file; its square and copies of it are held for a moment
_FRACTION = 20  # bits behind the point of a texel's coordinate
_ONE = 256  # cosine of 0, as in shapes
_LANE = 16  # bits of a channel in a packed texel: room for the sum of a pixel's samples
_WORKING_SET = 1 << 18  # samples at a time: what stays in a processor's cache is faster


def find_sprites(folder: Path | str) -> dict[str, list[Path]]:
    """Files of each class: every PNG file and every sub-folder with some is one, by name.

    Raises:
        EconError: there is no such folder, there are none in it, or two are of one name; one is
            a pipe, a link to nothing or the like.
    """
    found: dict[str, list[Path]] = {}
    root = Path(folder)
    files, odd = walk(root, "images")
    for path, error in odd.items():
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
    """Names of the classes that scenes are to have: those chosen, or all in the folder.

    Raises:
        EconError: a chosen one is not there, or there are too many, or too few weights.
    """
    assert config.sprites is not None
    there = find_sprites(config.sprites)
    classes = tuple(there) if config.classes == DEFAULT_CLASSES else config.classes
    if missing := [name for name in classes if name not in there]:
        shown = ", ".join([*there][:20]) + (", ..." if len(there) > 20 else "")
        raise EconError(f"classes among {shown}", repr(missing[0]))
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


class SpriteCast:
    """Objects that are sprites; each file is a look of its class.

    Args:
        config: what the scenes look like; its ``sprites`` names the folder.

    Raises:
        EconError: there is no such folder, or some file in it is no sprite.
    """

    def __init__(self, config: SceneConfig) -> None:
        assert config.sprites is not None
        self.classes, self.size = sprite_classes(config), config.size
        self.rotate = config.rotate
        files = find_sprites(config.sprites)
        self._longest = math.ceil(config.object_size[1] * config.size)  # pixels
        self._texels = min(_GRID * self._longest, _MAX_TEXELS)
        looks = [file for name in self.classes for file in files[name]]
        most = _MOST_TEXELS // self._texels**2
        if len(looks) > most:
            raise EconError(
                f"at most {most:,} sprites at {config.size} pixels, all of which are in memory",
                f"{len(looks):,} in {config.sprites}", "choose some with classes",
            )  # fmt: skip
        each = [load_sprite(file, self._texels) for file in looks]
        texels = torch.from_numpy(np.stack(each)).long()  # (looks, R, R, 4)
        self.palette = _mean_colours(texels)
        self._reach = torch.stack([_reach(sprite[..., 3]) for sprite in texels])
        counts = torch.tensor([len(files[name]) for name in self.classes])
        self._looks = torch.stack([counts.cumsum(0) - counts, counts], 1)  # first and number
        # a border of one texel, for the samples beside a sprite; all channels in one word
        texels = torch.nn.functional.pad(texels, (0, 0, 1, 1, 1, 1))
        lanes = torch.arange(4) * _LANE
        self._packed = (texels << lanes).sum(-1).flatten()

    def choose(self, label: Tensor, u: Tensor) -> Tensor:
        """One of the class' files, each equally likely."""
        first, number = self._looks.to(label.device)[label].unbind(-1)
        return first + counter_rng.below(u, number)

    def reach(self, look: Tensor, side: Tensor, turn: Tensor) -> Tensor:
        """How far objects reach from their centres."""
        table = self._reach.to(look.device)
        return shapes.scaled_reach(table[look, turn], side)

    def draw(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Masks and images."""
        rgba = self._layers(plan)  # (B, N, 4, H, W)
        image = plan.background.int()[..., None, None].repeat(1, 1, self.size, self.size)
        for layer in rgba.int().unbind(1)[::-1]:
            image = layer[:, :3] + _over_255((255 - layer[:, 3:]) * image)
        return rgba[:, :, 3] > 127, levels(image.device)[image]

    def _layers(self, plan: Plan) -> Tensor:
        """Whole objects, premultiplied, ``(B, N, 4, H, W)`` uint8."""
        label, look, centre, side, turn, colour = (
            x.flatten(0, 1)
            for x in (plan.label, plan.look, plan.centre, plan.side, plan.turn, plan.colour)
        )
        tint = colour - self.palette.to(look.device)[look]
        out = torch.zeros(len(label), 4, self.size, self.size, dtype=torch.uint8).to(label.device)
        window = self._longest * math.sqrt(2) if self.rotate else self._longest
        window = min(math.ceil(window) + 2, self.size)
        corner = (centre // shapes.UNIT - window // 2).clamp(0, self.size - window)
        there = torch.nonzero(label >= 0)[:, 0]
        pixel, channel = (torch.arange(k, device=label.device) for k in (window, 4))
        for n in there.split(max(1, _WORKING_SET // (window * _GRID) ** 2)):
            values = self._sample(look[n], centre[n], side[n], turn[n], corner[n], window)
            x, y = (corner[n, axis, None] + pixel for axis in (0, 1))
            index = (n[:, None, None, None], channel[:, None, None], y[:, None, :, None],
                     x[:, None, None, :])  # fmt: skip
            out[index] = _tinted(values, tint[n]).to(torch.uint8)
        return out.unflatten(0, plan.label.shape)

    def _sample(
        self, look: Tensor, centre: Tensor, side: Tensor, turn: Tensor, corner: Tensor, window: int
    ) -> Tensor:
        """Objects in their windows, premultiplied, ``(n, 4, window, window)`` int64."""
        r = self._texels
        sample = torch.arange(window * _GRID, device=look.device) * shapes.UNIT + shapes.UNIT // 2
        start = (corner * shapes.UNIT - centre) * _GRID  # in units / _GRID, as all samples are
        dx, dy = (start[:, axis, None] + sample for axis in (0, 1))
        rotation = shapes.rotations().to(look.device)[turn] * (r << _FRACTION)
        cos, sin = (rotation // (_GRID * _ONE * side[:, None])).split(1, 1)
        half = r << (_FRACTION - 1)
        u, v = (
            (((a * dx + half)[:, None, :] + (b * dy)[:, :, None]) >> _FRACTION)
            .clamp_(-1, r)
            .add_(1)
            for a, b in ((cos, sin), (-sin, cos))
        )
        width = r + 2
        index = v.mul_(width).add_(u).add_((look * width * width)[:, None, None])
        texel = self._packed.to(look.device).take(index)
        texel = texel.unflatten(1, (window, _GRID)).sum(2)
        texel = texel.unflatten(2, (window, _GRID)).sum(3)  # (n, window, window), packed sums
        lanes = torch.arange(4, device=look.device)[:, None, None] * _LANE
        sums = (texel[:, None] >> lanes) & ((1 << _LANE) - 1)
        return (sums + _GRID * _GRID // 2) // (_GRID * _GRID)


def load_sprite(path: Path, texels: int) -> np.ndarray:
    """A sprite from a file, cropped, square and premultiplied, ``(R, R, 4)`` uint8.

    Raises:
        EconError: the file is no picture, has no alpha, or nothing in it can be seen.
    """
    rgba = decode_cutout(path)
    image = Image.fromarray(rgba)
    box = image.getchannel("A").getbbox()
    if box is None or rgba[..., 3].max() <= 127:
        raise EconError("a sprite that can be seen", f"{path}, which is transparent all over")
    image = image.crop(box)
    side = max(image.size)
    if side > _MOST_SIDE:
        raise EconError(
            f"a sprite of at most {_MOST_SIDE:,} pixels a side", f"{path}, with {side:,}",
            "scale it down",
        )  # fmt: skip
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    whole = np.asarray(square).astype(np.uint16)
    whole[..., :3] = (whole[..., :3] * whole[..., 3:] + 127) // 255
    bands = [Image.fromarray(whole[..., c].astype(np.uint8)) for c in range(4)]
    # the mean over a texel's area where the file has more pixels, the nearest where it has fewer
    resized = [band.resize((texels, texels), Image.Resampling.BOX) for band in bands]
    out = np.stack([np.asarray(band) for band in resized], -1)
    return np.minimum(out, out[..., 3:])  # rounding can lift a colour above its alpha


def _mean_colours(texels: Tensor) -> Tensor:
    total = texels.sum((1, 2))
    colour, alpha = total[:, :3] * 255, total[:, 3:].clamp(min=1)
    return ((colour + alpha // 2) // alpha).clamp(max=255)


def _reach(alpha: Tensor) -> Tensor:
    """How far a sprite reaches for each turn, ``(TURNS, 4)``, from its first texels and last."""
    r = len(alpha)
    rows = torch.nonzero(alpha.any(1))[:, 0]
    seen = alpha[rows] > 0
    first = seen.int().argmax(1)
    last = r - 1 - seen.flip(1).int().argmax(1)
    ends = [(x, y) for x in (first, last + 1) for y in (rows, rows + 1)]
    points = torch.cat([torch.stack([x, y], 1) for x, y in ends]).double() / r - 0.5
    return shapes.reach_of_points(2 * points)


def _tinted(values: Tensor, tint: Tensor) -> Tensor:
    """Sprites whose colours are moved by ``tint``, ``(n, 3)``, as far as a channel goes."""
    colour, alpha = values[:, :3], values[:, 3:]
    moved = colour + (tint[..., None, None] * alpha + 127) // 255
    return torch.cat([torch.minimum(moved.clamp(min=0), alpha), alpha], 1)


def _over_255(x: Tensor) -> Tensor:
    """Nearest integer to x / 255, for x in 0 to 255^2."""
    x = x + 128
    return (x + (x >> 8)) >> 8
