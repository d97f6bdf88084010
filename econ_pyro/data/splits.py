"""Training and validation splits of any source, and the batches of each training step.

The splits are disjoint. Generated scenes use different indices, a dataset folder contains both
splits; of all other images, every 20th is held out for validation. If consecutive images are
similar, as in a video, the last twentieth is held out instead.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.base import DEFAULT_LIMIT, Source
from econ_pyro.data.ground_truth import Truth
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.resize import Fit, Resample
from econ_pyro.data.synthetic.dataset import SPLITS, StoredScenes, is_dataset
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.scene_config import SceneConfig

_HOLD_OUT = 20  # one image in 20 is for validation


class _Subset:
    """A subset of a source."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.size, self.classes = source.size, source.classes
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def images(self, indices: Tensor) -> Tensor:
        return self._source.images(self._indices[indices])

    def scenes(self, indices: Tensor) -> Truth | None:
        return self._source.scenes(self._indices[indices])


@dataclass(frozen=True)
class Split:
    """Disjoint training and validation images."""

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
    limit: int = DEFAULT_LIMIT,
    resample: Resample = "auto",
) -> Split:
    """Open training and validation images.

    Args:
        path: a dataset folder, any path for :func:`econ_pyro.data.readers.detect.open_images`, or
            ``None`` to generate scenes.
        scenes: distribution of generated scenes.
        size: height and width of the model's images in pixels.
        seed: seed of generated scenes.
        n: number of generated training scenes; files and folders are used as a whole.
        n_valid: number of generated validation scenes; for a file or a folder of images, the
            maximum number of validation images.
        fit: how images are made square.
        strict: raise on the first unreadable image of a folder instead of skipping it.
        limit: maximum number of images read from a file or a folder of images.
        resample: how images are resized.

    Raises:
        EconError: there are no images, or a dataset has images of another size.
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
    source = open_images(path, size, fit, strict, limit, resample)
    if len(source) < 2:
        raise EconError("at least 2 images, one to train on and one to validate on", f"1: {path}")
    if source.info.truncated:
        warnings.warn(
            f"took the first {limit:,} images of {path}: --limit takes more", stacklevel=2
        )
    return split(source, n_valid, source.info.sequential)


def split(source: Source, n_valid: int, sequential: bool = False) -> Split:
    """Hold out every 20th image (or the last), or the last twentieth.

    Args:
        source: at least 2 images.
        n_valid: maximum number of validation images, spread evenly over the held-out images.
        sequential: whether consecutive images are similar, so that the held-out images have to be
            consecutive.
    """
    n = len(source)
    held_out = torch.zeros(n, dtype=torch.bool)
    if sequential or n < _HOLD_OUT:
        held_out[-max(1, n // _HOLD_OUT) :] = True
    else:
        held_out[_HOLD_OUT - 1 :: _HOLD_OUT] = True
    valid = torch.nonzero(held_out)[:, 0]
    count = min(n_valid, len(valid))
    valid = valid[torch.arange(count) * len(valid) // count]
    return Split(_Subset(source, torch.nonzero(~held_out)[:, 0]), _Subset(source, valid))


def _check_size(source: Source, size: int, hint: str) -> None:
    if source.size != size:
        raise EconError(f"images of {size} pixels, the model's size", str(source.size), hint)


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> Tensor:
    return counter_rng.permutation(seed, n, epoch)


def batch_indices(n: int, batch: int, step: int, seed: int) -> Tensor:
    """Image indices of a training step, as a function of the arguments alone.

    Each epoch visits every image exactly once in a new random order. Epochs follow one another
    without a gap, so a batch may span two of them.

    Args:
        n: number of images.
        batch: batch size; may be larger than n.
        step: training step, from 0.
        seed: seed of the orders.

    Returns:
        :math:`(batch,)` int64 in 0 to n - 1.

    Raises:
        EconError: ``n`` or ``batch`` is below 1.
    """
    if n < 1 or batch < 1:
        raise EconError("at least 1 image and a batch of at least 1", f"{n} and {batch}")
    start, parts = step * batch, []
    while start < (step + 1) * batch:
        epoch, offset = divmod(start, n)
        stop = min(n, offset + (step + 1) * batch - start)
        parts.append(_epoch(n, seed, epoch)[offset:stop])
        start += stop - offset
    return torch.cat(parts)  # a copy, so that the cached order stays intact
