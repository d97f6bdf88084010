"""A source of images, and of what is known of them, in arrays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.data.ground_truth import PartialTruth
from econ_pyro.data.images import Fit, check_pixels, to_rgb, to_square
from econ_pyro.data.readers.array_values import Checked, to_bytes
from econ_pyro.data.readers.arrays import Arrays, Rows, check_rows, rows_at_once
from econ_pyro.data.readers.masks import Masks
from econ_pyro.data.source_info import LIMIT, About
from econ_pyro.errors import EconError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ArrayScenes:
    """Scenes in arrays, read as they are needed.

    Args:
        arrays: what a file holds.
        size: height and width of the images in pixels.
        fit: how images become square.
        limit: most images to take, the first ones.

    Raises:
        EconError: an array has another shape, type or range than
            :mod:`econ_pyro.data.readers.arrays` lists.
    """

    def __init__(self, arrays: Arrays, size: int, fit: Fit = "crop", limit: int = LIMIT) -> None:
        self.size, self._fit, self._arrays = size, fit, arrays
        image = arrays.rows["image"]
        self._axis, self._channels, native = _layout(arrays.path, image)
        self._n = min(limit, image.shape[0])
        self._native = arrays.native or native
        self._more = arrays.more or image.shape[0] > limit
        check_rows(arrays.path, arrays.rows)
        check_pixels(*native, arrays.path)
        self._pixels = Checked(arrays.path, image, self._n)
        self._masks = Masks(arrays, native, self._n) if Masks.there(arrays) else None
        self.classes: tuple[str, ...] = () if self._masks is None else self._masks.classes

    @property
    def about(self) -> About:
        """Where the images come from."""
        return About(
            kind=self._arrays.kind,
            kept=self._arrays.kept,
            native=Counter({self._native: self._n}),
            modes=Counter({_MODES[self._channels]: self._n}),
            truth=() if self._masks is None else self._masks.known,
            sequential=self._arrays.sequential,
            more=self._more,
        )

    def __len__(self) -> int:
        return self._n

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        numbers = indices.numpy()
        squares = np.empty((len(numbers), self.size, self.size, 3), np.uint8)
        step = rows_at_once(self._arrays.rows["image"])
        for start in range(0, len(numbers), step):
            pixels = to_bytes(self._pixels.take(numbers[start : start + step]))
            if self._axis is None:
                pixels = pixels[..., None]
            elif self._axis == 1:
                pixels = np.moveaxis(pixels, 1, -1)
            for i, picture in enumerate(pixels, start):
                squares[i] = self._square(picture)
        nchw = torch.from_numpy(squares).permute(0, 3, 1, 2)
        return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _square(self, pixels: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        picture = Image.fromarray(pixels)
        return np.array(to_square(to_rgb(picture), self.size, self._fit))

    def scenes(self, indices: Tensor) -> PartialTruth | None:
        """Images with what is known of them; None if nothing is."""
        if self._masks is None:
            return None
        known = self._masks.read(indices.numpy(), self.size, self._fit)
        return PartialTruth(self.images(indices), *known)


def _layout(path: Path, image: Rows) -> tuple[int | None, int, tuple[int, int]]:
    """Axis of the channels, their number, width and height."""
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
    if last and first:  # a side of few pixels: then images are square, or nobody can tell
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
