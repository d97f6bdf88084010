"""Where training images come from, and which of them a training step takes.

One shape of source for all: scenes drawn as they are needed, a dataset folder, and whatever else
:mod:`econ_pyro.data.readers.detect` can open. The training and the validation part of each are
disjoint: generated scenes have different indices, a dataset folder has two parts, of all else
every 20th image is held out; where neighbours are alike, as in a video, the last twentieth.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.ground_truth import Truth
from econ_pyro.data.images import Fit, find_images, read_image
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.readers.image_folder import ImageFolder
from econ_pyro.data.source_info import LIMIT
from econ_pyro.data.synthetic.dataset import SPLITS, StoredScenes, is_dataset
from econ_pyro.data.synthetic.renderer import SceneRenderer, Scenes
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig

__all__ = [
    "GeneratedScenes",
    "ImageFolder",
    "Source",
    "Split",
    "StoredScenes",
    "batch_indices",
    "find_images",
    "open_split",
    "read_image",
    "split",
]

_HOLD_OUT = 20  # of people's own images, one in so many is for validation


class Source(Protocol):
    """Images by number, all of one size, with the ground truth where there is one."""

    size: int
    """Height and width in pixels."""
    classes: tuple[str, ...]
    """Names of the classes of object, by label; empty if labels are not known."""

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Images number ``indices``: :math:`(B, 3, H, W)` float32 in [0, 1]."""

    def scenes(self, indices: Tensor) -> Truth | None:
        """The same with what ground truth there is; ``None`` if there is none."""


class GeneratedScenes:
    """Scenes drawn as they are needed, the same ones each time.

    Args:
        config: what the scenes look like.
        seed: seed of the scenes.
        n: number of scenes.
        split: ``train`` or ``valid``; the two share no scene.
    """

    def __init__(self, config: SceneConfig, seed: int, n: int, split: str = "train") -> None:
        if split not in SPLITS:
            raise EconError("a split called train or valid", repr(split))
        if not 1 <= n < SPLITS["valid"]:
            raise EconError("at least 1 scene and fewer than 2^31", str(n))
        self._n, self._first = n, SPLITS[split]
        self._renderer = SceneRenderer(config, seed)
        self.size, self.classes = config.size, self._renderer.config.classes

    def __len__(self) -> int:
        return self._n

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        return self._renderer.render_images(self._number(indices))

    def scenes(self, indices: Tensor) -> Scenes:
        """Images with ground truth."""
        return self._renderer.render(self._number(indices))

    def _number(self, indices: Tensor) -> Tensor:
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self._n:
            raise IndexError(f"scene indices must be in 0 to {self._n - 1}")
        return indices + self._first


class _Subset:
    """Some images of a source."""

    def __init__(self, whole: Source, chosen: Tensor) -> None:
        self.size, self.classes = whole.size, whole.classes
        self._whole, self._chosen = whole, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def images(self, indices: Tensor) -> Tensor:
        return self._whole.images(self._chosen[indices])

    def scenes(self, indices: Tensor) -> Truth | None:
        return self._whole.scenes(self._chosen[indices])


@dataclass(frozen=True)
class Split:
    """Disjoint images to train on and to validate on."""

    train: Source
    valid: Source


def open_split(
    path: Path | str | None,
    scenes: SceneConfig,
    size: int,
    seed: int,
    n: int = 50000,
    n_valid: int = 100,
    fit: Fit = "crop",
    strict: bool = False,
    limit: int = LIMIT,
) -> Split:
    """Open whatever the images are to come from, to train on and to validate on.

    Args:
        path: a dataset folder, what :func:`econ_pyro.data.readers.detect.open_images` takes, or
            ``None`` to
            draw scenes.
        scenes: what drawn scenes look like.
        size: height and width that the model expects, in pixels.
        seed: seed of drawn scenes.
        n: number of drawn training scenes; a file or a folder gives all that it has.
        n_valid: number of drawn validation scenes, and most validation images of a file or of a
            folder of images.
        fit: how images become square.
        strict: raise on the first unreadable picture of a folder instead of skipping it.
        limit: most images to take of a file or of a folder of images.

    Raises:
        EconError: there is nothing to read, or its images are of another size.
    """
    if path is None:
        train, valid = (
            GeneratedScenes(scenes, seed, number, name)
            for number, name in ((n, "train"), (n_valid, "valid"))
        )
        _check_size(train, size, "give the scenes and the model the same size")
        return Split(train, valid)
    if is_dataset(Path(path)):
        stored = Split(StoredScenes(path, "train"), StoredScenes(path, "valid"))
        _check_size(stored.train, size, "make a dataset, or train a model, of the other's size")
        return stored
    if Path(path).name in SPLITS and is_dataset(Path(path).parent):
        raise EconError("a dataset folder", f"its part {path}", f"use {Path(path).parent}")
    whole = open_images(path, size, fit, strict, limit)
    if len(whole) < 2:
        raise EconError("at least 2 images, one to train on and one to validate on", f"1: {path}")
    if whole.about.more:
        warnings.warn(
            f"took the first {limit:,} images of {path}: --limit takes more", stacklevel=2
        )
    return split(whole, n_valid, whole.about.sequential)


def split(whole: Source, n_valid: int, sequential: bool = False) -> Split:
    """Hold out every 20th image in order (or the last), or the last twentieth.

    Args:
        whole: at least 2 images.
        n_valid: most images to validate on, evenly from those held out.
        sequential: whether neighbours are alike, so that held-out ones must lie together.
    """
    n = len(whole)
    held = torch.zeros(n, dtype=torch.bool)
    if sequential or n < _HOLD_OUT:
        held[-max(1, n // _HOLD_OUT) :] = True
    else:
        held[_HOLD_OUT - 1 :: _HOLD_OUT] = True
    valid = torch.nonzero(held)[:, 0]
    count = min(n_valid, len(valid))
    valid = valid[torch.arange(count) * len(valid) // count]
    return Split(_Subset(whole, torch.nonzero(~held)[:, 0]), _Subset(whole, valid))


def _check_size(source: Source, size: int, hint: str) -> None:
    if source.size != size:
        raise EconError(f"images of {size} pixels, the model's size", str(source.size), hint)


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> Tensor:
    return counter_rng.permutation(seed, n, epoch)


def batch_indices(n: int, batch: int, step: int, seed: int) -> Tensor:
    """Which images training step ``step`` takes: a function of its arguments alone.

    The images are gone through in a new random order each epoch; the orders follow one another
    without a gap, so that each epoch takes each image exactly once whatever the batch size.

    Args:
        n: number of images.
        batch: images a step; may be larger than n.
        step: number of the training step, from 0.
        seed: seed of the orders.

    Returns:
        :math:`(batch,)` int64 in 0 to n - 1.

    Raises:
        EconError: there are no images, or the batch is empty.
    """
    if n < 1 or batch < 1:
        raise EconError("at least 1 image and a batch of at least 1", f"{n} and {batch}")
    start, parts = step * batch, []
    while start < (step + 1) * batch:
        epoch, offset = divmod(start, n)
        stop = min(n, offset + (step + 1) * batch - start)
        parts.append(_epoch(n, seed, epoch)[offset:stop])
        start += stop - offset
    return torch.cat(parts)  # a copy: nobody writes into the cached order
