"""A source of images, and of what is known of them, in arrays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.about import LIMIT, About
from econ_pyro.arrays import Arrays, Rows, take
from econ_pyro.errors import EconError
from econ_pyro.images import Fit, to_rgb, to_square
from econ_pyro.masks import Masks
from econ_pyro.truth import PartialTruth

_CHUNK = 256  # images looked at together when values are checked
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ArrayScenes:
    """Scenes in arrays, read as they are needed.

    Args:
        arrays: what a file holds.
        size: height and width of the images in pixels.
        fit: how images become square.
        limit: most images to take, the first ones.

    Raises:
        EconError: an array has another shape, type or range than :mod:`econ_pyro.arrays` lists.
    """

    def __init__(self, arrays: Arrays, size: int, fit: Fit = "crop", limit: int = LIMIT) -> None:
        self.size, self._fit, self._arrays = size, fit, arrays
        image = arrays.rows["image"]
        self._axis, self._channels, native = _layout(arrays.path, image)
        self._n = min(limit, image.shape[0])
        self._native = arrays.native or native
        self._more = arrays.more or image.shape[0] > limit
        _check_values(arrays.path, image, self._n)
        for name, rows in arrays.rows.items():
            if name != "classes" and (not rows.shape or rows.shape[0] != image.shape[0]):
                raise EconError(
                    f"{image.shape[0]} rows of {name} in {arrays.path}, as of image",
                    str(tuple(rows.shape)),
                )
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
        pixels = to_bytes(take(self._arrays.rows["image"], indices.numpy()))
        if self._axis is None:
            pixels = pixels[..., None]
        elif self._axis == 1:
            pixels = np.moveaxis(pixels, 1, -1)
        squares = np.stack([self._square(p) for p in pixels]) if len(pixels) else pixels
        nchw = torch.from_numpy(squares).permute(0, 3, 1, 2)
        return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _square(self, pixels: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return np.array(to_square(to_rgb(picture), self.size, self._fit))

    def scenes(self, indices: Tensor) -> PartialTruth | None:
        """Images with what is known of them; None if nothing is."""
        if self._masks is None:
            return None
        known = self._masks.read(indices.numpy(), self.size, self._fit)
        return PartialTruth(self.images(indices), *known)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Grey levels of 0 to 255, as uint8, from whatever type they were stored in."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind in "fb":
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint8)


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
    if len(shape) == 4 and shape[-1] in _MODES:
        return -1, shape[-1], (shape[2], shape[1])
    if len(shape) == 4 and shape[1] in _MODES:
        return 1, shape[1], (shape[3], shape[2])
    raise EconError(wanted, str(shape))


def _check_values(path: Path, image: Rows, n: int) -> None:
    """Look through the images once, unless their type leaves nothing to go wrong."""
    if image.dtype.kind == "b" or image.dtype in (np.uint8, np.uint16):
        return
    top, what = (1, "[0, 1]") if image.dtype.kind == "f" else (255, "0 to 255")
    for start in range(0, n, _CHUNK):
        part = np.asarray(image[start : min(n, start + _CHUNK)])
        flat = part.reshape(len(part), -1)
        bad = ~((flat >= 0) & (flat <= top)).all(1)  # also where there is a NaN
        if bad.any():
            i = int(bad.argmax())
            got, hint = f"{flat[i].min():g} to {flat[i].max():g} in image {start + i}", ""
            if np.isnan(flat[i]).any():
                got, hint = f"NaN in image {start + i}", "leave that image out"
            elif top == 1 and flat[i].min() >= 0 and flat[i].max() <= 255:
                hint = "divide by 255"
            elif top == 1 and flat[i].min() >= -1:
                hint = "add 1 and halve, if the range is -1 to 1"
            raise EconError(f"{image.dtype} images with values in {what} in {path}", got, hint)
