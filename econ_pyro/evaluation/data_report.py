"""Report the content of a dataset and suggest options for training on it.

With ground truth, the suggestions follow from counts: one layer per object of the fullest scene
plus one for the background; one expert per class plus one for the background; and the smallest
image size at which 90% of the objects cover three times the minimum area of a present layer.
Without ground truth, they are guesses and are reported as such.

What is beyond the models of the presets is said, too: it has been tried, and fails.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from econ_pyro import presets
from econ_pyro.config import additions
from econ_pyro.core.image_edge import background_colour
from econ_pyro.data.base import Source, SourceInfo
from econ_pyro.data.ground_truth import Truth
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.resize import Fit
from econ_pyro.data.synthetic.dataset import StoredScenes, is_dataset
from econ_pyro.errors import check_positive, command, printable
from econ_pyro.evaluation.data_traits import (
    TOLERANCE,
    Traits,
    traits_of,
    turning,
)
from econ_pyro.evaluation.matching import MIN_AREA, smallest_area
from econ_pyro.model_config import EconConfig, PoseLatents
from econ_pyro.scene_config import MAX_OBJECTS

SIZES = (32, 64, 128)
"""Image sizes that are suggested; the networks of the presets downsample images four times."""
DEFAULT_COUNT = 4  # layers and experts without ground truth, as in the presets
MIN_IMAGES = 200  # with fewer, networks overfit
_MIN_OBJECT_AREA = 3 * round(MIN_AREA * 32 * 32)  # pixels
_INSPECTION_SIZE = SIZES[-1]  # maximum size at which images are inspected
_BATCH = 64
_COMPARED = 4  # batches of which the shapes of objects are compared
_MIN_SIZE_RANGE = 1.25  # size becomes a latent above this; rasterisation alone causes 1.1
_MIN_TURNING = 0.08  # gain of IoU by turning; rasterisation alone causes 0.03
_MIN_ALIKE = 0.75  # IoU of turned objects of a class below which it has several looks
_SHADED, _NOISY, _BLENDED, _PLAIN, _HARD = 0.2, 0.3, 0.15, 0.6, 0.5  # thresholds of traits
_SPECKS = 2 * MAX_OBJECTS  # areas in an image, of which more are parts of patterns
_LIT = 0.03  # spread of the ground's brightness that its chromaticity does not share
_SMALL = 0.05  # share of objects too small to be present; slivers of hidden ones are fewer
_MOST_COLOURS = 3.0  # exact colours of an area; objects of one colour each may touch
_MANY_COLOURS = 60.0  # the same, above which textures are no patterns of a few colours
_ENOUGH = 200  # images, in which whole objects can be clustered by shape
_CLUSTERED = 1000  # images of which more are clustered only if they are small
_LARGE, _SMALL_BATCH = 64, 8  # from this size on, the presets' batch takes too long
_OF_LOOKS = ("mnist", "freedoom")  # presets for classes of several looks
_MIN_FLAT_SHARE = 0.33  # objects count as unicoloured above this, at SIZES[0] pixels


@dataclass(frozen=True)
class Inspection:
    """Properties of a dataset."""

    path: Path
    source: Source
    info: SourceInfo
    objects: Counter[int]
    """Number of images by number of visible objects; empty without masks."""
    areas: Tensor
    """Visible area of each object as a fraction of its image, ascending."""
    size_range: float | None
    """Ratio of the ninth to the first decile of the width of a class's objects, median over
    classes; None without amodal masks and classes."""
    agreement: tuple[float, float] | None
    """IoU of a class's objects in one place and size, as they are and turned (``turning``)."""
    traits: Traits
    """Properties of the images."""

    @property
    def turned(self) -> bool:
        """Whether objects of a class are turned."""
        return self.agreement is not None and self.agreement[1] - self.agreement[0] > _MIN_TURNING

    @property
    def scaled(self) -> bool:
        """Whether objects of a class differ in size."""
        return self.size_range is not None and self.size_range > _MIN_SIZE_RANGE


@dataclass(frozen=True)
class Advice:
    """Suggested options with reasons."""

    size: int
    slots: int
    experts: int
    reasons: tuple[str, ...]
    beyond: tuple[str, ...]
    """What of the dataset the models of the presets cannot do, and why."""
    command: str
    """Shell command that trains with these options."""


def inspect(path: Path, fit: Fit, limit: int) -> Inspection:
    """Inspect a dataset.

    Args:
        path: data as for ``--data``.
        fit: how images are made square.
        limit: maximum number of images; the first ones are inspected.

    Raises:
        EconError: the data cannot be opened, or its masks are invalid.
    """
    check_positive("--limit", limit)
    source, info = _open(path, fit, limit)
    objects: Counter[int] = Counter()
    areas, widths = [torch.empty(0)], [torch.empty(0, 2)]
    compared: list[Truth] = []
    for indices in torch.arange(min(limit, len(source))).split(_BATCH):
        scenes = source.scenes(indices)
        if scenes is None:
            break
        area = scenes.region.flatten(2).float().mean(2)  # (B, N)
        objects.update((area > 0).sum(1).tolist())
        areas.append(area[area > 0])
        widths.append(_object_widths(scenes))
        if len(compared) < _COMPARED:
            compared.append(scenes)
    images = source.images(sample_indices(len(source), _BATCH))
    return Inspection(
        path,
        source,
        info,
        objects,
        torch.cat(areas).sort().values,
        _size_range(torch.cat(widths)),
        turning(compared) if compared else None,
        traits_of(images),
    )


def _object_widths(scenes: Truth) -> Tensor:
    """Class and width of each object with an amodal mask that no edge cuts, ``(n, 2)``."""
    if scenes.mask is None or scenes.label is None:
        return torch.empty(0, 2)
    mask = scenes.mask
    cut = mask[..., [0, -1], :].flatten(2).any(2) | mask[..., [0, -1]].flatten(2).any(2)
    width = mask.flatten(2).float().mean(2).sqrt()
    whole = (scenes.label >= 0) & ~cut & (width > 0)
    return torch.stack([scenes.label[whole].float(), width[whole]], 1)


def _size_range(widths: Tensor) -> float | None:
    ranges = []
    for label in widths[:, 0].unique():
        low, high = widths[widths[:, 0] == label, 1].quantile(torch.tensor([0.1, 0.9]))
        ranges.append((high / low).item())
    return median(ranges) if ranges else None


def _open(path: Path, fit: Fit, limit: int) -> tuple[Source, SourceInfo]:
    if not is_dataset(path):
        source = open_images(path, _INSPECTION_SIZE, fit, limit=limit)
        if (size := _max_size(source.info)) < _INSPECTION_SIZE:  # upsampling would blur edges
            source = open_images(path, size, fit, limit=limit)
        return source, source.info
    stored = StoredScenes(path)
    n, size, classes = len(stored), stored.size, stored.classes
    return stored, SourceInfo(
        "a dataset folder of econ-pyro",
        "nothing: images are read when needed",
        Counter({(size, size): n}),
        Counter(RGB=n),
        (
            "visible masks",
            "amodal masks",
            "depth order",
            f"{len(classes)} classes: {', '.join(classes)}",
        ),
    )


def advise(inspection: Inspection, fit: Fit) -> Advice:
    """Suggest options for training."""
    preset, why = _preset(inspection)
    size, reason = _size(inspection, preset)
    if preset == "turned-random-colours" and size >= _LARGE:
        preset, why = "multi-dsprites", f"{why}; 30 minutes"
    reasons = [f"size {size}: {reason}"]
    slots = DEFAULT_COUNT
    if inspection.objects:
        most = max(inspection.objects)
        slots = most + 1
        reasons.append(f"T {slots}: at most {most} objects per image, and the background")
    else:
        # specks of noise and of patterns are no objects
        specks = inspection.traits.noise > _NOISY or _is_textured(inspection.traits)
        seen = 0 if specks else inspection.traits.components
        slots = max(DEFAULT_COUNT, seen + 1)
        reasons.append(f"T {slots}: a guess, as the number of objects is unknown; use the maximum "
                       "number of objects in an image plus 1 for the background; up to "
                       f"{seen} separate areas in an image were seen")  # fmt: skip
    classes = len(inspection.source.classes)
    experts = classes + 1 if classes else DEFAULT_COUNT
    if classes:
        reasons.append(f"K {experts}: {classes} classes, and the background")
    else:
        reasons.append(f"K {experts}: a guess, as the classes are unknown; use the number of "
                       "classes of object plus 1 for the background")  # fmt: skip
    rendered = isinstance(inspection.source, StoredScenes)  # objects do not cross the edges
    if not rendered:
        reasons.append("reach 1: objects may cross the image's edges; use 0.7 if none does")
    reasons.append(f"{preset}: {why}")
    model = presets.PRESETS[preset][1].model
    assert isinstance(model, EconConfig) and isinstance(model.expert.latents, PoseLatents)
    latents = model.expert.latents
    # of classes of several looks, latents of shape have size and angle in them
    own = preset not in _OF_LOOKS
    scaled, turned = (own and a for a in (inspection.scaled, inspection.turned))
    if scaled:
        factor = f"{inspection.size_range:.1f}"
        reasons.append(
            f"size latent: the width of a class's objects varies by a factor of {factor}"
        )
    words = [*command("train").split(), preset, "--data", str(inspection.path)]
    for option, value in (("size", size), ("num-slots", slots), ("num-experts", experts)):
        words += [f"--model.{option}", str(value)]
    if not rendered:
        words += ["--model.expert.latents.reach", "1"]
    if turned:
        reasons.append("angle latents: objects of a class are turned")
    # latents on which the shape depends, too
    more = (scaled and not latents.size) + 2 * (turned and not latents.angle)
    if more:
        if scaled:
            words += ["--model.expert.latents.size"]
        shape_dim = (latents.shape_dim or latents.pose_dim) + more
        if turned:
            words += ["--model.expert.latents.angle"]
            shape_dim = latents.pose_dim + more
        counts = (("dim", latents.dim + more), ("shape-dim", shape_dim))
        words += [
            word for name, n in counts for word in (f"--model.expert.latents.{name}", str(n))
        ]
    clusters = additions(presets.PRESETS[preset][1]).shape_clusters
    fewer = max(clusters * model.size**2 // size**2, min(clusters, _CLUSTERED))
    if clusters and len(inspection.source) < _ENOUGH:
        words += ["--recipe.shape-clusters", "0", "--recipe.shapes-fixed-until", "0"]
        reasons.append(f"no clusters of shapes: they take {_ENOUGH} images or more")
    elif fewer < clusters:
        words += ["--recipe.shape-clusters", str(fewer)]
        reasons.append(f"clusters out of {fewer} images: each takes long to take apart")
    if size >= _LARGE and presets.PRESETS[preset][1].train.batch > _SMALL_BATCH:
        words += ["--train.batch", str(_SMALL_BATCH)]
        reasons.append(f"batch {_SMALL_BATCH}: a scene takes {size**2 // 32**2} times the work")
    resized = any(original != (size, size) for original in inspection.info.original_sizes)
    if resized and inspection.traits.hard_edges > _HARD:
        words += ["--resample", "nearest"]
        reasons.append("resample nearest: means at hard edges would be colours of no object")
    if fit != "crop":
        words += ["--fit", fit]
    words += ["--run", f"runs/{inspection.path.name.split('.')[0] or 'data'}"]
    beyond = _beyond(inspection, preset, size, slots)
    return Advice(size, slots, experts, tuple(reasons), beyond, shlex.join(words))


def _preset(inspection: Inspection) -> tuple[str, str]:
    images = inspection.source.images(sample_indices(len(inspection.source), _BATCH))
    exact = inspection.traits.hard_edges > _HARD
    if inspection.traits.lit > _LIT and not exact:
        return "clevr-like", "the ground differs in brightness, not in colour: light and shadow"
    if _is_textured(inspection.traits):
        one_look = inspection.agreement is not None and not _has_looks(inspection)
        if inspection.traits.colours > _MANY_COLOURS and not one_look:
            return "freedoom", "ground and objects seem to have textures of many colours"
        return "textured", "ground and objects seem to have patterns; an hour"
    if exact:
        flat = inspection.traits.colours <= _MOST_COLOURS
    else:
        flat = flat_share(downsample(images, SIZES[0])) > _MIN_FLAT_SHARE
    if flat and inspection.traits.shading <= _SHADED:
        if inspection.turned:
            return "turned-random-colours", "objects seem to be unicoloured, and are turned"
        if inspection.scaled and len(inspection.source) >= _ENOUGH:
            return "turned-random-colours", "objects seem to be unicoloured, of several sizes"
        return "quick", "objects seem to be unicoloured; 20 minutes, then try random-colours"
    if exact:
        return "tetrominoes", "objects seem to have few exact colours in patterns; 30 minutes"
    why = "objects seem to be multicoloured"
    plain = inspection.traits.plain >= _PLAIN and inspection.traits.noise <= _NOISY
    if plain and len(inspection.source) >= _ENOUGH:
        if _has_looks(inspection):
            return "mnist", f"{why}, with several looks in a class, on a ground of one colour"
        return "emoji", f"{why}, on a ground of one colour"
    return "sprites", f"{why}; use quick if each has a single colour"


def _beyond(inspection: Inspection, preset: str, size: int, slots: int) -> tuple[str, ...]:
    """What of a dataset the presets' models cannot do, and why."""
    found, traits = [], inspection.traits
    if slots - 1 > MAX_OBJECTS:
        found.append(f"{slots - 1} objects: models are trained with {MAX_OBJECTS} at most")
    if _has_looks(inspection) and preset not in _OF_LOOKS:
        found.append("several looks in a class: experts share out looks, not classes; raise "
                     "--model.expert.latents.dim and shape-dim")  # fmt: skip
    if not additions(presets.PRESETS[preset][1]).grouping_images:  # others learn from such images
        found += _no_flat_colours(traits)
    least = smallest_area(size, size)
    small = (inspection.areas * size * size < least).float().mean().item()
    if len(inspection.areas) and small > _SMALL:
        found.append(
            f"small objects: {small:.0%} have fewer than {least} pixels at size {size} and do not "
            "count; use a larger size, or evaluate.py with --min-area"
        )
    return tuple(found)


def _has_looks(inspection: Inspection) -> bool:
    """Whether objects of a class differ in more than place, size and angle."""
    return inspection.agreement is not None and inspection.agreement[1] < _MIN_ALIKE


def _is_textured(traits: Traits) -> bool:
    """Whether the ground falls into more areas than there could be objects."""
    return traits.plain < _PLAIN and traits.components > _SPECKS


def _no_flat_colours(traits: Traits) -> list[str]:
    """What makes colours of one object, or of the ground, differ, and what that does."""
    found = []
    if traits.noise > _NOISY:
        found.append("noise: a region is what resembles one pixel; remove noise with a median "
                     "filter, or use learnt-random-colours")  # fmt: skip
    elif traits.shading > _SHADED:
        found.append("shading: a region ends where a colour changes by a ninth, so that an object "
                     "can become several")  # fmt: skip
    if traits.plain < _PLAIN:
        found.append("background of several colours: it is one layer of one smooth appearance")
    if traits.blended > _BLENDED and traits.hard_edges <= _HARD:
        found.append("blended edges: their mixed pixels can become objects; render without "
                     "antialiasing, or use learnt-random-colours")  # fmt: skip
    return found


def flat_share(images: Tensor) -> float:
    """Share of the foreground that lies in areas of constant colour.

    The background of an image is every pixel similar to the median colour of its edge.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1].

    Returns:
        Share of foreground pixels that resemble most of their neighbours; 1 without foreground.
    """
    background = background_colour(images)[:, :, None, None]
    foreground = (images - background).abs().amax(1) > TOLERANCE  # (B, H, W)
    patches = F.unfold(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3)
    patches = patches.unflatten(1, (3, 9)).unflatten(3, images.shape[2:])  # (B, 3, 9, H, W)
    similar = (patches - images[:, :, None]).abs().amax(1) <= TOLERANCE
    flat = similar.sum(1) > 6  # the pixel itself and at least six of its eight neighbours
    return flat[foreground].float().mean().item() if foreground.any() else 1.0


def _size(inspection: Inspection, preset: str) -> tuple[int, str]:
    if isinstance(inspection.source, StoredScenes):
        return inspection.source.size, "the size of the dataset"
    sizes = set(inspection.info.original_sizes)
    width, height = min(sizes)
    own = len(sizes) == 1 and width == height and width % 8 == 0 and 32 <= width <= SIZES[1]
    if preset == "tetrominoes" and own:
        return width, "the size of the images, whose patterns no resizing keeps"
    largest, areas = _max_size(inspection.info), inspection.areas
    if not len(areas):
        shorter = _shortest_side(inspection.info)
        reason = f"a guess from images of at least {shorter} pixels; larger sizes take longer"
        return min(largest, 64), reason
    first_decile = areas[len(areas) // 10].item()
    needed = math.sqrt(_MIN_OBJECT_AREA / first_decile)
    size = min(next((s for s in SIZES if s >= needed), SIZES[-1]), largest)
    own_size = presets.PRESETS[preset][1].model.size
    if size < own_size <= largest and own_size in SIZES:
        return own_size, f"that of the preset; {size} would do for the objects' areas"
    pixels = round(first_decile * size * size)
    return size, f"90% of the objects cover at least {pixels} pixels"


def _max_size(info: SourceInfo) -> int:
    """The largest size that upsamples no image; the smallest size if there is none."""
    return max((s for s in SIZES if s <= _shortest_side(info)), default=SIZES[0])


def _shortest_side(info: SourceInfo) -> int:
    return min(min(original) for original in info.original_sizes)


def report(inspection: Inspection, advice: Advice, fit: Fit) -> str:
    """Format an inspection and suggested options for a terminal."""
    info, n = inspection.info, len(inspection.source)
    sizes = [f"{w}x{h}" for (w, h), _ in info.original_sizes.most_common(3)]
    if len(info.original_sizes) > 3:
        sizes[-1] += f" and {len(info.original_sizes) - 3} other sizes"
    square = all(w == h for w, h in info.original_sizes)
    resized = "" if square else f" ({'cropped to the centre' if fit == 'crop' else 'stretched'})"
    lines = [
        printable(f"{inspection.path}: {info.kind}"),
        f"  images       {n:,}{' inspected; there are more' if info.truncated else ''}"
        f"{', consecutive ones similar' if info.sequential else ''}",
        f"  pixels       {', '.join(sizes)}{resized}",
        f"  colours      {', '.join(f'{mode} ({c:,})' for mode, c in info.modes.most_common())}",
        f"  storage      {info.storage}",
        f"  truth        {info.truth[0] if info.truth else 'none'}",
        *(f"               {printable(known)}" for known in info.truth[1:]),
    ]
    if inspection.objects:
        counts = ", ".join(f"{k} in {v:,}" for k, v in sorted(inspection.objects.items()))
        lines.append(f"  objects      {counts} images")
    lines += [f"  skipped      {printable(reason)}" for reason in info.skipped]
    if n < MIN_IMAGES:
        lines.append(f"  few images   networks may overfit with fewer than {MIN_IMAGES}")
    lines += ["", "suggested options:", *(f"  {reason}" for reason in advice.reasons)]
    if advice.beyond:
        lines += ["", "beyond the model:", *(f"  {reason}" for reason in advice.beyond)]
    return "\n".join([*lines, "", advice.command])


def sample_indices(n: int, limit: int) -> Tensor:
    """At most ``limit`` evenly spaced indices of n images."""
    return torch.arange(min(n, limit)) * n // min(n, limit)


def downsample(images: Tensor, size: int) -> Tensor:
    """Downsample by an integer factor to about ``size`` pixels."""
    return F.avg_pool2d(images, max(1, images.shape[-1] // size))
