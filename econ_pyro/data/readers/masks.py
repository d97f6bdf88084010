"""Ground truth from arrays of masks and labels.

:mod:`econ_pyro.data.readers.arrays` lists the arrays.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from econ_pyro.data.readers import objects_room
from econ_pyro.data.readers.arrays import ArrayFile, chunk_rows, row_bytes, take_rows
from econ_pyro.data.readers.mask_slots import (
    MaskTensors,
    concatenate,
    depth_order,
    number_objects,
    reorder,
)
from econ_pyro.data.resize import Fit, to_square
from econ_pyro.errors import EconError

_CHUNK_BYTES = 256 << 20  # bytes of masks read at a time
_THRESHOLD = 128  # of 255; soft edges lie between
_SAMPLE = 64  # images from which the meaning of masks is inferred
_MAX_CLASSES = 64
MAX_OBJECTS = 255
"""Maximum number of objects per image; each needs a mask of the model's size."""
_MAX_NAMES = 4096  # named classes


class Masks:
    """Ground truth in arrays.

    Args:
        file: arrays of a file, including ``mask`` or ``amodal``.
        image_size: width and height of the images in the file.
        n: number of images that are used.

    Raises:
        EconError: the shape or type of an array is invalid.
    """

    classes: tuple[str, ...] = ()
    """Names of classes by label; empty if labels are unknown."""

    def __init__(self, file: ArrayFile, image_size: tuple[int, int], n: int) -> None:
        self._path, self._arrays, self._hw = file.path, file.arrays, image_size[::-1]
        for name in {"mask", "amodal"} & set(self._arrays):
            if self._arrays[name].dtype.kind not in "buif":
                raise self._invalid(name, f"values of type {self._arrays[name].dtype}")
            if (stacked := self._arrays[name].shape[1:]) and len(stacked) > 2:
                self._check_count(name, stacked[0] if stacked != (*self._hw, 1) else 0)
        self._is_index_map = "mask" in self._arrays and self._has_index_map()
        self._covered = False  # whether the visible masks cover every pixel
        sample = np.arange(min(n, _SAMPLE))
        for name in {"mask", "amodal"} & set(self._arrays):
            if name == "mask" and self._is_index_map:
                continue
            stack = self._stack(name, sample[: chunk_rows(self._arrays[name])])
            if name == "mask":
                self._covered = bool(stack.any(1).all())
        has_background = self._is_index_map or self._covered
        self._first = (file.background or 1) if has_background else 1
        self._objects_room = file.objects_room and has_background
        in_columns = self._covered or (self._is_index_map and "visibility" in self._arrays)
        self._offset = 0 if in_columns else 1
        if "visibility" in self._arrays:
            visibility = self._arrays["visibility"]
            if len(visibility.shape) not in (2, 3) or visibility.dtype.kind not in "buif":
                raise self._invalid("visibility", f"{tuple(visibility.shape)} {visibility.dtype}")
            if not np.isfinite(np.asarray(visibility[:n], np.float64)).all():
                raise self._invalid("visibility", "NaN")
        self._label: np.ndarray | None = None
        if "label" in self._arrays:
            self._read_labels(n)

    @staticmethod
    def available(file: ArrayFile) -> bool:
        """Whether a file contains ground truth."""
        return not {"mask", "amodal"}.isdisjoint(file.arrays)

    @property
    def description(self) -> tuple[str, ...]:
        """The available ground truth, for reports."""
        parts = (
            "" if self._first == 1 else f", {self._first - 1} or {self._first} parts of background"
        )
        lines = [f"visible masks{parts}"]
        if "amodal" in self._arrays:
            lines.append("whole objects (amodal masks), depth order")
        if self._label is not None:
            lines.append(f"{len(self.classes)} classes: {', '.join(self.classes)}")
        return tuple(lines)

    def read(self, indices: np.ndarray, size: int, fit: Fit) -> MaskTensors:
        """Ground truth of some images, resized by nearest neighbours.

        Raises:
            EconError: masks overlap, are not indices of objects, or contradict one another.
        """
        largest = max(row_bytes(self._arrays[n]) for n in {"mask", "amodal"} & set(self._arrays))
        step = max(1, _CHUNK_BYTES // max(1, largest))
        parts = [indices[i : i + step] for i in range(0, max(1, len(indices)), step)]
        return concatenate([self._read(part, size, fit) for part in parts])

    def _read(self, indices: np.ndarray, size: int, fit: Fit) -> MaskTensors:
        index_maps = self._index_maps(indices)
        numbered, columns = number_objects(index_maps, self._first_objects(index_maps))
        slots = columns.shape[1]
        if slots > MAX_OBJECTS:
            b = int((columns >= 0).sum(1).argmax())
            raise EconError(
                f"at most {MAX_OBJECTS} objects in an image, in mask of {self._path}",
                f"{slots:,} in image {indices[b]}", "are these indices of objects?",
            )  # fmt: skip
        columns = columns - self._offset * (columns >= 0)  # of label and amodal; -1: no object
        numbered = np.stack([_square(image, size, fit) for image in numbered])
        region = numbered[:, None] == np.arange(1, slots + 1)[:, None, None]
        mask = self._amodal(indices, columns, size, fit) if "amodal" in self._arrays else None
        label = self._labels(indices, columns)
        if mask is not None and slots:
            if (region & ~mask).any():
                b = int((region & ~mask).any((1, 2, 3)).argmax())
                raise self._invalid("amodal", f"visible parts outside them in image {indices[b]}")
            order = np.stack([depth_order(r, m) for r, m in zip(region, mask, strict=True)])
            region, mask = (reorder(a, order) for a in (region, mask))
            label = None if label is None else reorder(label, order)
        tensors = [None if a is None else torch.from_numpy(a) for a in (region, mask, label)]
        return MaskTensors(*tensors)  # type: ignore[arg-type]

    def _first_objects(self, index_maps: np.ndarray) -> np.ndarray:
        """The first index of each image that is an object."""
        if not self._objects_room:
            return np.full(len(index_maps), self._first)
        columns = self._arrays["visibility"].shape[1] if "visibility" in self._arrays else None
        return objects_room.background_parts(index_maps, columns)

    def _has_index_map(self) -> bool:
        shape, hw = tuple(self._arrays["mask"].shape[1:]), self._hw
        if shape in (hw, (*hw, 1)):
            return True
        if len(shape) in (3, 4) and shape[1:] in (hw, (*hw, 1)):
            return False
        raise self._invalid("mask", str(tuple(self._arrays["mask"].shape)))

    def _stack(self, name: str, indices: np.ndarray) -> np.ndarray:
        """One mask per object, ``(B, N, H, W)`` bool."""
        shape, hw = tuple(self._arrays[name].shape[1:]), self._hw
        if len(shape) < 3 or shape[1:] not in (hw, (*hw, 1)) or shape[0] == 0:
            raise self._invalid(name, str(tuple(self._arrays[name].shape)))
        stack = take_rows(self._arrays[name], indices)
        if stack.dtype.kind != "b":
            top = 255 if stack.dtype.kind != "f" and stack.max(initial=0) > 1 else 1
            # soft edges lie between 0 and the top; indices of objects and NaN do not
            ends = (stack == 0) | (stack == top)
            inside = (stack > 0) & (stack < top) & (stack.dtype.kind == "f" or top == 255)
            if not (ends | inside).all() or (top == 255 and stack.max() < _THRESHOLD):
                values = f"values from {stack.min():g} to {stack.max():g}"
                raise self._invalid(name, f"{values}, where 1 or 255 marks the object")
            stack = stack >= (_THRESHOLD if top == 255 else 0.5 if stack.dtype.kind == "f" else 1)
        return stack[..., 0] if len(shape) == 4 else stack

    def _index_maps(self, indices: np.ndarray) -> np.ndarray:
        """Index of the visible object, ``(B, H, W)`` int64; background below ``_first``."""
        if self._is_index_map:
            values = take_rows(self._arrays["mask"], indices).reshape(len(indices), *self._hw)
            with np.errstate(invalid="ignore"):  # NaN and infinity fail the comparison below
                index_maps = values.astype(np.int64)
            if (index_maps != values).any() or (index_maps < 0).any():
                raise self._invalid("mask", "values that are not 0, 1, 2, ...")
            return index_maps
        name = "mask" if "mask" in self._arrays else "amodal"
        stack = self._stack(name, indices)
        if name == "mask" and (overlap := stack.sum(1) > 1).any():
            b = int(overlap.any((1, 2)).argmax())
            raise EconError(
                f"visible masks without overlap in {self._path}",
                f"pixels of several objects in image {indices[b]}",
                "if they are whole objects, call the array amodal",
            )
        front = stack.argmax(1)
        return front if self._covered else np.where(stack.any(1), front + 1, 0)

    def _amodal(self, indices: np.ndarray, columns: np.ndarray, size: int, fit: Fit) -> np.ndarray:
        stack = self._stack("amodal", indices)
        self._check_columns("amodal", columns, stack.shape[1])
        out = np.zeros((*columns.shape, size, size), bool)
        for b, n in zip(*np.nonzero(columns >= 0), strict=True):
            out[b, n] = _square(stack[b, columns[b, n]], size, fit)
        return out

    def _labels(self, indices: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        if self._label is None:
            return None
        self._check_columns("label", columns, self._label.shape[1])
        labels = np.take_along_axis(self._label[indices], columns.clip(0), 1)
        return np.where(columns >= 0, labels, -1)

    def _check_count(self, name: str, count: int) -> None:
        if count > MAX_OBJECTS + 1:  # one may be the background
            expected = f"at most {MAX_OBJECTS} columns of {name} in {self._path}, one per object"
            raise EconError(expected, f"{count:,}")

    def _check_columns(self, name: str, columns: np.ndarray, count: int) -> None:
        if columns.size and columns.max() >= count:
            raise self._invalid(name, f"{count} columns for object {columns.max() + self._offset}")

    def _read_labels(self, n: int) -> None:
        for name in {"label", "visibility"} & set(self._arrays):
            shape = self._arrays[name].shape
            if len(shape) not in (2, 3) or shape[2:] not in ((), (1,)):
                raise self._invalid(name, str(tuple(shape)))
            if self._arrays[name].dtype.kind not in "buif":
                raise self._invalid(name, f"values of type {self._arrays[name].dtype}")
            self._check_count(name, shape[1])
        values = np.asarray(self._arrays["label"][:n])
        values = values[..., 0] if values.ndim == 3 else values
        with np.errstate(invalid="ignore"):
            labels = values.astype(np.int64)
        if (labels != values).any():
            raise self._invalid("label", "values that are not integers")
        present = labels >= 0
        if "visibility" in self._arrays:
            visible = np.asarray(self._arrays["visibility"][:n]).reshape(n, -1) > 0
            if visible.shape != labels.shape:
                raise self._invalid("visibility", f"{visible.shape} beside labels {labels.shape}")
            present &= visible
        always_background = self._first - self._objects_room
        present[:, : always_background - self._offset] = False
        codes = np.unique(labels[present])
        if "classes" in self._arrays:
            self.classes = self._names()
            if len(codes) and codes[-1] >= len(self.classes):
                raise self._invalid("label", f"{codes[-1]} for {len(self.classes)} classes")
            self._label = np.where(present, labels, -1)
        elif 0 < len(codes) <= _MAX_CLASSES:
            self.classes = tuple(f"class-{code}" for code in codes)
            self._label = np.where(present, np.searchsorted(codes, labels), -1)

    def _names(self) -> tuple[str, ...]:
        stored = self._arrays["classes"]
        if len(stored.shape) != 1 or stored.dtype.kind not in "USOTbuif":
            raise self._invalid("classes", f"{tuple(stored.shape)} {stored.dtype}")
        if stored.shape[0] > _MAX_NAMES or row_bytes(stored) > _MAX_NAMES:
            raise self._invalid("classes", f"{stored.shape[0]:,} of {row_bytes(stored):,} bytes")
        names = np.asarray(stored[:]).tolist()
        return tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names)

    def _invalid(self, name: str, got: str) -> EconError:
        expected = {
            "mask": "mask as an index map (n, H, W) or one mask per object (n, N, H, W)",
            "amodal": "amodal masks (n, N, H, W), one per object",
            "label": "label (n, N), one integer per object",
            "visibility": "visibility (n, N), one number per object",
            "classes": f"classes (C,), at most {_MAX_NAMES:,} names of {_MAX_NAMES:,} bytes",
        }[name]
        height, width = self._hw
        return EconError(f"{expected}, with H = {height}, W = {width}, in {self._path}", got)


def _square(values: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Resize by nearest neighbours, as indices must not be interpolated."""
    picture = Image.fromarray(values.astype(np.int32))
    return np.array(to_square(picture, size, fit, "nearest")).astype(values.dtype)
