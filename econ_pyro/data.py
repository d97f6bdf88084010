"""Where training images come from, and which of them a training step takes.

Three sources, one shape: scenes drawn as they are needed, a dataset folder, a folder of pictures.
The training and the validation part of each are disjoint: generated scenes have different
indices, a dataset folder has two parts, of a folder of pictures every 20th is held out.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from econ_pyro import counter
from econ_pyro.config import SceneConfig
from econ_pyro.dataset import SPLITS, StoredScenes, is_dataset
from econ_pyro.errors import EconError
from econ_pyro.images import Fit, decode, find_images, list_files, read_image
from econ_pyro.scenes import SceneRenderer, Scenes

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
]

_log = logging.getLogger(__name__)
_HOLD_OUT = 20  # of a folder's pictures, one in so many is for validation


class Source(Protocol):
    """Images by number, all of one size, with the ground truth where there is one."""

    size: int
    """Height and width in pixels."""
    classes: tuple[str, ...]
    """Names of the classes of object, by label; empty without ground truth."""

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Images number ``indices``: :math:`(B, 3, H, W)` float32 in [0, 1]."""

    def scenes(self, indices: Tensor) -> Scenes | None:
        """The same with ground truth; ``None`` if there is none."""


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


class ImageFolder:
    """The pictures in a folder and the folders in it, decoded once and kept in memory.

    Args:
        path: the folder. Files whose names begin with a dot are not looked at.
        size: height and width of the images in pixels.
        fit: ``crop`` scales the shorter side to size and keeps the middle, ``resize`` stretches.
        strict: raise on the first file that is not a readable picture, instead of skipping it
            with a warning.

    Raises:
        EconError: there is no such folder, or no readable picture in it.
    """

    skipped: list[EconError]
    """What was wrong with each file that is not among the images."""

    def __init__(
        self, path: Path | str, size: int, fit: Fit = "crop", strict: bool = False
    ) -> None:
        self.size = size
        self.classes: tuple[str, ...] = ()
        files = list_files(path)
        self.paths: list[Path] = []
        self.skipped = []
        self._pixels = np.empty((len(files), size, size, 3), np.uint8)
        for file in files:
            try:
                self._pixels[len(self.paths)] = decode(file, size, fit)
                self.paths.append(file)
            except EconError as error:
                if strict:
                    raise
                self.skipped.append(error)
        self._pixels = self._pixels[: len(self.paths)]
        if self.skipped:
            for skipped in self.skipped:
                _log.info("skipped: %s", skipped)
            shown = "; ".join(skipped.got for skipped in self.skipped[:3])
            more = f"; and {len(self.skipped) - 3} more" if len(self.skipped) > 3 else ""
            warnings.warn(
                f"skipped {len(self.skipped)} of {len(files)} files that are not readable PNG or "
                f"JPEG images: {shown}{more}",
                stacklevel=2,
            )
        if not self.paths:
            raise EconError(
                "PNG or JPEG images",
                f"{path}, with none among its {len(files)} files" if files else f"{path}, empty",
                "name the folder that holds the images",
            )

    def __len__(self) -> int:
        return len(self._pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        nchw = torch.from_numpy(self._pixels[indices.numpy()]).permute(0, 3, 1, 2)
        return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def scenes(self, indices: Tensor) -> None:
        """There is no ground truth."""
        return None

    def split(self) -> Split:
        """Every 20th image in the order of the names (or the last) for validation.

        Raises:
            EconError: there is only one image.
        """
        n = len(self)
        if n < 2:
            raise EconError(
                "at least 2 images, one to train on and one to validate on",
                f"{n}: {self.paths[0]}",
            )
        valid = (
            torch.arange(_HOLD_OUT - 1, n, _HOLD_OUT) if n >= _HOLD_OUT else torch.tensor([n - 1])
        )
        held = torch.zeros(n, dtype=torch.bool)
        held[valid] = True
        return Split(_Subset(self, torch.nonzero(~held)[:, 0]), _Subset(self, valid))


class _Subset:
    """Some images of a folder."""

    def __init__(self, folder: ImageFolder, chosen: Tensor) -> None:
        self.size, self.classes = folder.size, folder.classes
        self._folder, self._chosen = folder, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def images(self, indices: Tensor) -> Tensor:
        return self._folder.images(self._chosen[indices])

    def scenes(self, indices: Tensor) -> None:
        return None


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
) -> Split:
    """Open whatever the images are to come from, to train on and to validate on.

    Args:
        path: a dataset folder, a folder of pictures, or ``None`` to draw scenes.
        scenes: what drawn scenes look like.
        size: height and width that the model expects, in pixels.
        seed: seed of drawn scenes.
        n: number of drawn training scenes; a folder gives all that it has.
        n_valid: number of drawn validation scenes.
        fit: how pictures of a folder become square.
        strict: raise on the first unreadable picture instead of skipping it.

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
    return ImageFolder(path, size, fit, strict).split()


def _check_size(source: Source, size: int, hint: str) -> None:
    if source.size != size:
        raise EconError(f"images of {size} pixels, the model's size", str(source.size), hint)


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> Tensor:
    return counter.permutation(seed, n, epoch)


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
