"""What somebody's images are, how they look, and with which options to begin on them.

The advice is arithmetic, not a search. Where there are masks: as many layers as the fullest scene
has objects and one for the background; the smallest size at which nine of ten objects keep three
times the pixels that make a layer present; an expert for each class and one for the background.
Where there are none, the numbers are guesses and say so.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from econ_pyro import presets
from econ_pyro.data.base import Source, SourceInfo
from econ_pyro.data.ground_truth import Truth
from econ_pyro.data.images import Fit
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.synthetic.dataset import StoredScenes, is_dataset
from econ_pyro.errors import check_positive, printable
from econ_pyro.evaluation.matching import MIN_AREA
from econ_pyro.model_config import EconConfig, PoseLatents
from econ_pyro.viz import panels

SIZES = (32, 64, 128)
"""Sizes that are advised; the presets' networks halve images four times."""
GUESS = 4  # layers and experts where nothing was counted: the presets' numbers
FEW = 200  # images below which a network learns them by heart
_ENOUGH = 3 * round(MIN_AREA * 32 * 32)  # pixels, three times those that make a layer present
_LOOK = SIZES[-1]  # size at which images are looked at, if they are not smaller
_BATCH = 64
_ALIKE = 0.03  # colours in each channel: what compression does to a flat one is less
_SIZES_DIFFER = 1.25  # range above which sizes are a latent: rasters alone make 1.1 of one size
_FLAT = 0.33  # share above which objects are said to be of one colour each, at SIZES[0] pixels
_ACROSS, _DOWN, _PANEL = 8, 4, 96  # contact sheet


@dataclass(frozen=True)
class Inspection:
    """What was seen."""

    path: Path
    source: Source
    about: SourceInfo
    objects: Counter[int]
    """Images by number of visible objects; empty without masks."""
    areas: Tensor
    """Visible part of each object as a fraction of its image, ascending."""
    size_range: float | None
    """How many times as wide the larger objects of a class are as the smaller ones (ninth over
    first decile, of the middle one of the classes); None without whole masks and classes."""


@dataclass(frozen=True)
class Advice:
    """Options to begin with, each with its reason."""

    size: int
    steps: int
    experts: int
    reasons: tuple[str, ...]
    command: str
    """A line for the shell."""


def inspect(path: Path, fit: Fit, limit: int) -> Inspection:
    """Look at a dataset.

    Args:
        path: what ``--data`` takes.
        fit: how images become square.
        limit: images to look at, the first ones.

    Raises:
        EconError: it cannot be opened, or its masks are not what they should be.
    """
    check_positive("--limit", limit)
    source, about = _open(path, fit, limit)
    objects: Counter[int] = Counter()
    areas, whole = [torch.empty(0)], [torch.empty(0, 2)]
    for indices in torch.arange(min(limit, len(source))).split(_BATCH):
        scenes = source.scenes(indices)
        if scenes is None:
            break
        share = scenes.region.flatten(2).float().mean(2)  # (B, N)
        objects.update((share > 0).sum(1).tolist())
        areas.append(share[share > 0])
        whole.append(_whole_objects(scenes))
    size_range = _size_range(torch.cat(whole))
    return Inspection(path, source, about, objects, torch.cat(areas).sort().values, size_range)


def _whole_objects(scenes: Truth) -> Tensor:
    """Class and width of each object whose mask is known and not cut by the edge, ``(n, 2)``."""
    if scenes.mask is None or scenes.label is None:
        return torch.empty(0, 2)
    mask = scenes.mask
    cut = mask[..., [0, -1], :].flatten(2).any(2) | mask[..., [0, -1]].flatten(2).any(2)
    width = mask.flatten(2).float().mean(2).sqrt()
    there = (scenes.label >= 0) & ~cut & (width > 0)
    return torch.stack([scenes.label[there].float(), width[there]], 1)


def _size_range(whole: Tensor) -> float | None:
    ranges = []
    for label in whole[:, 0].unique():
        low, high = whole[whole[:, 0] == label, 1].quantile(torch.tensor([0.1, 0.9]))
        ranges.append((high / low).item())
    return median(ranges) if ranges else None


def _open(path: Path, fit: Fit, limit: int) -> tuple[Source, SourceInfo]:
    if not is_dataset(path):
        own = open_images(path, _LOOK, fit, limit=limit)
        if (size := _largest(own.info)) < _LOOK:  # enlarged, their edges would be blurred
            own = open_images(path, size, fit, limit=limit)
        return own, own.info
    stored = StoredScenes(path)
    n, size, names = len(stored), stored.size, ", ".join(stored.classes)
    truth = (
        "visible masks",
        "whole objects (amodal masks), depth order",
        f"{len(stored.classes)} classes: {names}",
    )
    kept = "nothing: images are read when needed"
    kind = "a dataset folder of econ-pyro"
    return stored, SourceInfo(kind, kept, Counter({(size, size): n}), Counter(RGB=n), truth)


def advise(seen: Inspection, fit: Fit) -> Advice:
    """Options to begin training with."""
    reasons = []
    size, reason = _size(seen)
    reasons.append(f"size {size}: {reason}")
    steps = GUESS
    if seen.objects:
        most = max(seen.objects)
        steps = most + 1
        reasons.append(f"T {steps}: up to {most} objects were counted, and the background")
    else:
        reasons.append(f"T {steps}: a guess, nothing says how many objects there are; count the "
                       "most in a picture, and 1 for the background")  # fmt: skip
    classes = len(seen.source.classes)
    experts = classes + 1 if classes else GUESS
    if classes:
        reasons.append(f"K {experts}: {classes} classes, and the background")
    else:
        reasons.append(f"K {experts}: a guess, no classes are known; one for each kind of object "
                       "that looks alike, and 1 for the background")  # fmt: skip
    whole = isinstance(seen.source, StoredScenes)  # rendered within the image
    if not whole:
        reasons.append("reach 1: objects may lie at the edges; 0.7 if all are whole (then samples "
                       "are, too)")  # fmt: skip
    preset, reason = _preset(seen)
    reasons.append(f"{preset}: {reason}")
    scaled = seen.size_range is not None and seen.size_range > _SIZES_DIFFER
    if scaled:
        reasons.append(f"scaled: of one class, larger objects are {seen.size_range:.1f} times as "
                       "wide as smaller ones")  # fmt: skip
    words = ["python", "scripts/svi_train.py", preset, "--data", str(seen.path)]
    for option, value in (("size", size), ("num-slots", steps), ("num-experts", experts)):
        words += [f"--model.{option}", str(value)]
    if not whole:
        words += ["--model.expert.latents.reach", "1"]
    if scaled:  # a size is one more latent, and one that the shape depends on
        model = presets.PRESETS[preset][1].model
        assert isinstance(model, EconConfig) and isinstance(model.expert.latents, PoseLatents)
        latents = model.expert.latents
        more = (("dim", latents.dim + 1), ("shape-dim", (latents.shape_dim or 2) + 1))
        words += ["--model.expert.latents.size"]
        words += [word for name, n in more for word in (f"--model.expert.latents.{name}", str(n))]
    if fit != "crop":
        words += ["--fit", fit]
    words += ["--run", f"runs/{seen.path.name.split('.')[0] or 'own'}"]
    return Advice(size, steps, experts, tuple(reasons), shlex.join(words))


def _preset(seen: Inspection) -> tuple[str, str]:
    images = seen.source.images(_spread(len(seen.source), _BATCH))
    if flat_share(_reduced(images, SIZES[0])) > _FLAT:
        return "quick", "objects look to be of one colour each; 20 minutes, then random-colours"
    return "sprites", "objects look to be of several colours each; quick if each is of one"


def flat_share(images: Tensor) -> float:
    """How much of what is not background is like most of the pixels about it.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1].

    Returns:
        A share from 0 to 1; 1 if there is nothing else. The background is whatever is like the
        median colour of an image's edge.
    """
    edge = torch.cat([images[:, :, [0, -1]].flatten(2), images[:, :, :, [0, -1]].flatten(2)], 2)
    background = edge.median(2).values[:, :, None, None]
    other = (images - background).abs().amax(1) > _ALIKE  # (B, H, W)
    around = F.unfold(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3)
    around = around.unflatten(1, (3, 9)).unflatten(3, images.shape[2:])  # (B, 3, 9, H, W)
    alike = (around - images[:, :, None]).abs().amax(1) <= _ALIKE
    flat = alike.sum(1) > 6  # itself, and more than five of eight
    return flat[other].float().mean().item() if other.any() else 1.0


def _size(seen: Inspection) -> tuple[int, str]:
    if isinstance(seen.source, StoredScenes):
        return seen.source.size, "the dataset's own"
    largest, shorter = _largest(seen.about), _shortest(seen.about)
    if not len(seen.areas):
        size = min(largest, 64)
        return size, f"a guess from images of {shorter} pixels and more; larger ones take longer"
    tenth = seen.areas[len(seen.areas) // 10].item()
    needed = math.sqrt(_ENOUGH / tenth)
    size = next((s for s in SIZES if s >= needed), SIZES[-1])
    size = min(size, largest)
    pixels = round(tenth * size * size)
    return size, f"nine of ten objects show at least {pixels} pixels there"


def _largest(about: SourceInfo) -> int:
    """Size that enlarges no image, if there is one."""
    return max((s for s in SIZES if s <= _shortest(about)), default=SIZES[0])


def _shortest(about: SourceInfo) -> int:
    return min(min(native) for native in about.original_sizes)


def report(seen: Inspection, advice: Advice, fit: Fit) -> str:
    """What was seen and what is advised, for a terminal."""
    about, n = seen.about, len(seen.source)
    sizes = [f"{w}x{h}" for (w, h), _ in about.original_sizes.most_common(3)]
    others = (
        f" and {len(about.original_sizes) - 3} other sizes"
        if len(about.original_sizes) > 3
        else ""
    )
    square = all(w == h for w, h in about.original_sizes)
    done = "" if square else f" ({'the middle is kept' if fit == 'crop' else 'stretched'})"
    lines = [
        printable(f"{seen.path}: {about.kind}"),
        f"  images       {n:,}{' looked at; there are more' if about.truncated else ''}"
        f"{', neighbours alike' if about.sequential else ''}",
        f"  pixels       {', '.join(sizes)}{others}{done}",
        f"  colours      {', '.join(f'{mode} ({c:,})' for mode, c in about.modes.most_common())}",
        f"  kept         {about.storage}",
    ]
    lines.append(f"  truth        {about.truth[0] if about.truth else 'none'}")
    lines += [f"               {printable(known)}" for known in about.truth[1:]]
    if seen.objects:
        counted = ", ".join(f"{k} in {v:,}" for k, v in sorted(seen.objects.items()))
        lines.append(f"  objects      {counted} images")
    lines += [f"  skipped      {printable(reason)}" for reason in about.skipped]
    if n < FEW:
        lines.append(f"  few images   below {FEW}, networks tend to learn each by heart")
    lines += ["", "to begin with:", *(f"  {reason}" for reason in advice.reasons)]
    return "\n".join([*lines, "", advice.command])


def contact_sheet(seen: Inspection, size: int) -> Image.Image:
    """Images spread evenly over the set, at the size advised, each above its masks if any."""
    chosen = _spread(len(seen.source), _ACROSS * _DOWN)
    scenes = seen.source.scenes(chosen)
    images = seen.source.images(chosen) if scenes is None else scenes.image
    tiles, labels = [], []
    for start in range(0, len(chosen), _ACROSS):
        at = range(start, min(start + _ACROSS, len(chosen)))
        labels.append(panels.Label(f"{int(chosen[at[0]])} to {int(chosen[at[-1]])}"))
        tiles.append([_panel(images[i], size) for i in at])
        if scenes is not None:
            labels.append(panels.Label("masks"))
            tiles.append([_panel(_painted(scenes, i), size) for i in at])
    return panels.framed(panels.grid(tiles, labels))


def _spread(n: int, most: int) -> Tensor:
    """Indices spread evenly over n images, as many as there are or are wanted."""
    chosen = min(n, most)
    return torch.arange(chosen) * n // chosen


def _reduced(images: Tensor, size: int) -> Tensor:
    """By an exact fraction, to about a size: pixels as the model sees them."""
    return F.avg_pool2d(images, max(1, images.shape[-1] // size))


def _panel(image: Tensor, size: int) -> np.ndarray:
    small = _reduced(image, size)
    return panels.panel(small, panels.scale_for(small.shape[-1], _PANEL))


def _painted(scenes: Truth, i: int) -> Tensor:
    """Each object's visible part in a colour of its own over a grey image, ``(3, H, W)``."""
    out = scenes.image[i].mean(0, keepdim=True).expand(3, -1, -1) * 0.4 + 0.5
    for n, region in enumerate(scenes.region[i]):
        colour = torch.tensor(panels.expert_colour(n)).view(3, 1, 1) / 255
        out = torch.where(region, 0.25 * out + 0.75 * colour, out)
    return out
