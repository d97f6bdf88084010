"""Images and ground truth in arrays as a source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.data.base import DEFAULT_LIMIT, SourceInfo
from econ_pyro.data.ground_truth import PartialTruth
from econ_pyro.data.images import check_pixels, to_rgb
from econ_pyro.data.readers.array_values import CheckedImages, to_bytes
from econ_pyro.data.readers.arrays import ArrayFile, LazyArray, check_arrays, chunk_rows
from econ_pyro.data.readers.masks import Masks
from econ_pyro.data.resize import Fit, Resample, to_square
from econ_pyro.errors import EconError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ArraySource:
    """Images in arrays, read on demand.

    Args:
        file: arrays of a file.
        size: height and width of the resized images in pixels.
        fit: how images are made square.
        limit: maximum number of images.
        resample: how images are resized; masks are by nearest neighbours.

    Raises:
        EconError: the shape, type or range of an array differs from the table in
            :mod:`econ_pyro.data.readers.arrays`.
    """

    def __init__(
        self,
        file: ArrayFile,
        size: int,
        fit: Fit = "crop",
        limit: int = DEFAULT_LIMIT,
        resample: Resample = "auto",
    ) -> None:
        self.size, self._fit, self._file, self._resample = size, fit, file, resample
        image = file.arrays["image"]
        self._channel_axis, self._channels, stored_size = _layout(file.path, image)
        self._n = min(limit, image.shape[0])
        self._original_size = file.original_size or stored_size
        self._truncated = file.truncated or image.shape[0] > limit
        check_arrays(file.path, file.arrays)
        check_pixels(*stored_size, file.path)
        self._pixels = CheckedImages(file.path, image, self._n)
        self._masks = Masks(file, stored_size, self._n) if Masks.available(file) else None
        self.classes: tuple[str, ...] = () if self._masks is None else self._masks.classes

    @property
    def info(self) -> SourceInfo:
        """Description of the original images."""
        return SourceInfo(
            kind=self._file.kind,
            storage=self._file.storage,
            original_sizes=Counter({self._original_size: self._n}),
            modes=Counter({_MODES[self._channels]: self._n}),
            truth=() if self._masks is None else self._masks.description,
            sequential=self._file.sequential,
            truncated=self._truncated,
        )

    def __len__(self) -> int:
        return self._n

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        numbers = indices.numpy()
        squares = np.empty((len(numbers), self.size, self.size, 3), np.uint8)
        step = chunk_rows(self._file.arrays["image"])
        for start in range(0, len(numbers), step):
            pixels = to_bytes(self._pixels.take(numbers[start : start + step]))
            if self._channel_axis is None:
                pixels = pixels[..., None]
            elif self._channel_axis == 1:
                pixels = np.moveaxis(pixels, 1, -1)
            for i, picture in enumerate(pixels, start):
                squares[i] = self._square(picture)
        nchw = torch.from_numpy(squares).permute(0, 3, 1, 2)
        return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _square(self, pixels: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        picture = Image.fromarray(pixels)
        return np.array(to_square(to_rgb(picture), self.size, self._fit, self._resample))

    def scenes(self, indices: Tensor) -> PartialTruth | None:
        """Images with ground truth; None if there is none."""
        if self._masks is None:
            return None
        truth = self._masks.read(indices.numpy(), self.size, self._fit)
        return PartialTruth(self.images(indices), *truth)


def _layout(path: Path, image: LazyArray) -> tuple[int | None, int, tuple[int, int]]:
    """Channel axis, number of channels, and (width, height)."""
    shape = tuple(image.shape)
    wanted = f"images (n, H, W), (n, H, W, C) or (n, C, H, W), with C = 1, 3 or 4, in {path}"
    if len(shape) == 3 and shape[-1] in _MODES:
        raise EconError(wanted, f"one image {shape}", "add a first axis: images[None]")
    if image.dtype.kind not in "buif":
        raise EconError(f"numbers in {path}", f"values of type {image.dtype}")
    if 0 in shape:
        raise EconError(wanted, f"{shape}, which holds nothing")
    if len(shape) == 3:
        return None, 1, (shape[2], shape[1])
    if len(shape) != 4:
        hint = "put frames one after another: reshape(-1, *images.shape[2:])"
        raise EconError(wanted, str(shape), hint if len(shape) == 5 else "")
    last, first = shape[-1] in _MODES, shape[1] in _MODES
    if last and first:  # images 1, 3 or 4 pixels wide: unambiguous only if they are square
        last, first = shape[1] == shape[2], shape[2] == shape[3]
        if last == first:
            hint = "cut or pad the images so that no side has 1, 3 or 4 pixels"
            raise EconError(wanted, f"{shape}, whose channels may be first or last", hint)
    if last:
        return -1, shape[-1], (shape[2], shape[1])
    if first:
        return 1, shape[1], (shape[3], shape[2])
    two = 2 in (shape[1], shape[-1])
    hint = "keep the first of grey and alpha" if two else "keep 1, 3 or 4 channels"
    raise EconError(wanted, str(shape), hint)
