"""Masks and classes in arrays as ground truth.

:mod:`econ_pyro.data.readers.arrays` says what they may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from econ_pyro.data.images import Fit, to_square
from econ_pyro.data.readers import objects_room
from econ_pyro.data.readers.arrays import Arrays, row_bytes, rows_at_once, take
from econ_pyro.errors import EconError

_AT_ONCE = 256 << 20  # bytes of masks that are read together
_ON = 128  # of 255: soft edges may lie between
_LOOKED_AT = 64  # images from which the meaning of masks is told
_MOST_CLASSES = 64
MOST_OBJECTS = 255
"""Objects of an image at most; each takes a mask of the model's size."""
_MOST_NAMES = 4096  # classes with names


class Known(NamedTuple):
    """Regions ``(B, N, H, W)``, and if known masks and labels, as in ``truth.Truth``."""

    region: Tensor
    mask: Tensor | None
    label: Tensor | None


class Masks:
    """Ground truth in arrays.

    Args:
        arrays: what a file holds; with ``mask`` or ``amodal``.
        native: width and height of its images.
        n: number of images that are used.

    Raises:
        EconError: an array has another shape or type than it should.
    """

    classes: tuple[str, ...] = ()
    """Names of classes by label; empty if labels are not known."""

    def __init__(self, arrays: Arrays, native: tuple[int, int], n: int) -> None:
        self._path, self._rows, self._hw = arrays.path, arrays.rows, (native[1], native[0])
        for name in {"mask", "amodal"} & set(self._rows):
            if self._rows[name].dtype.kind not in "buif":
                raise self._wrong(name, f"values of type {self._rows[name].dtype}")
            if (stacked := self._rows[name].shape[1:]) and len(stacked) > 2:
                self._check_count(name, stacked[0] if stacked != (*self._hw, 1) else 0)
        self._numbered = "mask" in self._rows and self._is_numbered()
        self._covered = False
        first = np.arange(min(n, _LOOKED_AT))
        for name in {"mask", "amodal"} & set(self._rows):
            if name == "mask" and self._numbered:
                continue
            stack = self._stack(name, first[: rows_at_once(self._rows[name])])
            if name == "mask":
                self._covered = bool(stack.any(1).all())
        own_background = self._numbered or self._covered
        self._first = (arrays.background or 1) if own_background else 1
        self._rooms = arrays.rooms and own_background
        in_columns = self._covered or (self._numbered and "visibility" in self._rows)
        self._offset = 0 if in_columns else 1
        if "visibility" in self._rows:
            there = self._rows["visibility"]
            if len(there.shape) not in (2, 3) or there.dtype.kind not in "buif":
                raise self._wrong("visibility", f"{tuple(there.shape)} {there.dtype}")
            if not np.isfinite(np.asarray(there[:n], np.float64)).all():
                raise self._wrong("visibility", "NaN")
        self._label: np.ndarray | None = None
        if "label" in self._rows:
            self._read_labels(n)

    @staticmethod
    def there(arrays: Arrays) -> bool:
        """Whether a file holds ground truth at all."""
        return not {"mask", "amodal"}.isdisjoint(arrays.rows)

    @property
    def known(self) -> tuple[str, ...]:
        """What ground truth there is, for people."""
        parts = (
            "" if self._first == 1 else f", {self._first - 1} or {self._first} parts of background"
        )
        said = [f"visible masks{parts}"]
        if "amodal" in self._rows:
            said.append("whole objects (amodal masks), depth order")
        if self._label is not None:
            said.append(f"{len(self.classes)} classes: {', '.join(self.classes)}")
        return tuple(said)

    def read(self, indices: np.ndarray, size: int, fit: Fit) -> Known:
        """Ground truth of some images, brought to the model's size without mixing pixels.

        Raises:
            EconError: masks overlap, are not numbers of objects, or contradict one another.
        """
        heaviest = max(row_bytes(self._rows[n]) for n in {"mask", "amodal"} & set(self._rows))
        step = max(1, _AT_ONCE // max(1, heaviest))
        parts = [indices[i : i + step] for i in range(0, max(1, len(indices)), step)]
        return _joined([self._read(part, size, fit) for part in parts])

    def _read(self, indices: np.ndarray, size: int, fit: Fit) -> Known:
        numbers = self._numbers(indices)
        ranks, columns = _rank(numbers, self._firsts(numbers))
        slots = columns.shape[1]
        if slots > MOST_OBJECTS:
            b = int((columns >= 0).sum(1).argmax())
            raise EconError(
                f"at most {MOST_OBJECTS} objects in an image, in mask of {self._path}",
                f"{slots:,} in image {indices[b]}", "are these numbers of objects?",
            )  # fmt: skip
        columns = columns - self._offset * (columns >= 0)  # of label and amodal; -1: no object
        ranks = np.stack([_square(r, size, fit) for r in ranks])
        region = ranks[:, None] == np.arange(1, slots + 1)[:, None, None]
        mask = self._amodal(indices, columns, size, fit) if "amodal" in self._rows else None
        label = self._labels(indices, columns)
        if mask is not None and slots:
            if (region & ~mask).any():
                b = int((region & ~mask).any((1, 2, 3)).argmax())
                raise self._wrong("amodal", f"visible parts outside them in image {indices[b]}")
            order = np.stack([depth_order(r, m) for r, m in zip(region, mask, strict=True)])
            region, mask = (_by_slot(a, order) for a in (region, mask))
            label = None if label is None else _by_slot(label, order)
        tensors = [None if a is None else torch.from_numpy(a) for a in (region, mask, label)]
        return Known(*tensors)  # type: ignore[arg-type]

    def _firsts(self, numbers: np.ndarray) -> np.ndarray:
        """The first number of each image that is an object."""
        if not self._rooms:
            return np.full(len(numbers), self._first)
        columns = self._rows["visibility"].shape[1] if "visibility" in self._rows else None
        return objects_room.background_parts(numbers, columns)

    def _is_numbered(self) -> bool:
        shape, hw = tuple(self._rows["mask"].shape[1:]), self._hw
        if shape in (hw, (*hw, 1)):
            return True
        if len(shape) in (3, 4) and shape[1:] in (hw, (*hw, 1)):
            return False
        raise self._wrong("mask", str(tuple(self._rows["mask"].shape)))

    def _stack(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Masks one an object, ``(B, N, H, W)`` bool."""
        shape, hw = tuple(self._rows[name].shape[1:]), self._hw
        if len(shape) < 3 or shape[1:] not in (hw, (*hw, 1)) or shape[0] == 0:
            raise self._wrong(name, str(tuple(self._rows[name].shape)))
        stack = take(self._rows[name], indices)
        if stack.dtype.kind != "b":
            top = 255 if stack.dtype.kind != "f" and stack.max(initial=0) > 1 else 1
            # soft edges lie between 0 and the top; numbers of objects, or NaN, do not
            ends = (stack == 0) | (stack == top)
            inside = (stack > 0) & (stack < top) & (stack.dtype.kind == "f" or top == 255)
            if not (ends | inside).all() or (top == 255 and stack.max() < _ON):
                said = f"values from {stack.min():g} to {stack.max():g}"
                raise self._wrong(name, f"{said}, where 1 or 255 says that it is there")
            stack = stack >= (_ON if top == 255 else 0.5 if stack.dtype.kind == "f" else 1)
        return stack[..., 0] if len(shape) == 4 else stack

    def _numbers(self, indices: np.ndarray) -> np.ndarray:
        """The object seen at each pixel, ``(B, H, W)`` int64; below ``_first`` is background."""
        if self._numbered:
            values = take(self._rows["mask"], indices).reshape(len(indices), *self._hw)
            with np.errstate(invalid="ignore"):  # of NaN and infinity, which are found here
                numbers = values.astype(np.int64)
            if (numbers != values).any() or (numbers < 0).any():
                raise self._wrong("mask", "values that are not 0, 1, 2, ...")
            return numbers
        name = "mask" if "mask" in self._rows else "amodal"
        stack = self._stack(name, indices)
        if name == "mask" and (several := stack.sum(1) > 1).any():
            b = int(several.any((1, 2)).argmax())
            raise EconError(
                f"visible masks without overlap in {self._path}",
                f"pixels of several objects in image {indices[b]}",
                "if they are whole objects, call the array amodal",
            )
        nearest = stack.argmax(1)
        return nearest if self._covered else np.where(stack.any(1), nearest + 1, 0)

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
        own = np.take_along_axis(self._label[indices], columns.clip(0), 1)
        return np.where(columns >= 0, own, -1)

    def _check_count(self, name: str, there: int) -> None:
        if there > MOST_OBJECTS + 1:  # one may be the background
            most = f"at most {MOST_OBJECTS} columns of {name} in {self._path}, one an object"
            raise EconError(most, f"{there:,}")

    def _check_columns(self, name: str, columns: np.ndarray, there: int) -> None:
        if columns.size and columns.max() >= there:
            raise self._wrong(name, f"{there} columns for object {columns.max() + self._offset}")

    def _read_labels(self, n: int) -> None:
        for name in {"label", "visibility"} & set(self._rows):
            shape = self._rows[name].shape
            if len(shape) not in (2, 3) or shape[2:] not in ((), (1,)):
                raise self._wrong(name, str(tuple(shape)))
            if self._rows[name].dtype.kind not in "buif":
                raise self._wrong(name, f"values of type {self._rows[name].dtype}")
            self._check_count(name, shape[1])
        values = np.asarray(self._rows["label"][:n])
        values = values[..., 0] if values.ndim == 3 else values
        with np.errstate(invalid="ignore"):
            labels = values.astype(np.int64)
        if (labels != values).any():
            raise self._wrong("label", "values that are not integers")
        there = labels >= 0
        if "visibility" in self._rows:
            seen = np.asarray(self._rows["visibility"][:n]).reshape(n, -1) > 0
            if seen.shape != labels.shape:
                raise self._wrong("visibility", f"{seen.shape} beside labels {labels.shape}")
            there &= seen
        least = self._first - self._rooms  # in every scene background
        there[:, : least - self._offset] = False
        codes = np.unique(labels[there])
        if "classes" in self._rows:
            self.classes = self._names()
            if len(codes) and codes[-1] >= len(self.classes):
                raise self._wrong("label", f"{codes[-1]} for {len(self.classes)} classes")
            self._label = np.where(there, labels, -1)
        elif 0 < len(codes) <= _MOST_CLASSES:
            self.classes = tuple(f"class-{code}" for code in codes)
            self._label = np.where(there, np.searchsorted(codes, labels), -1)

    def _names(self) -> tuple[str, ...]:
        stored = self._rows["classes"]
        if len(stored.shape) != 1 or stored.dtype.kind not in "USOTbuif":
            raise self._wrong("classes", f"{tuple(stored.shape)} {stored.dtype}")
        if stored.shape[0] > _MOST_NAMES or row_bytes(stored) > _MOST_NAMES:
            raise self._wrong("classes", f"{stored.shape[0]:,} of {row_bytes(stored):,} bytes")
        names = np.asarray(stored[:]).tolist()
        return tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names)

    def _wrong(self, name: str, got: str) -> EconError:
        expected = {
            "mask": "mask as numbers (n, H, W) or one mask an object (n, N, H, W)",
            "amodal": "amodal masks (n, N, H, W), one an object",
            "label": "label (n, N), one integer an object",
            "visibility": "visibility (n, N), one number an object",
            "classes": f"classes (C,), at most {_MOST_NAMES:,} names of {_MOST_NAMES:,} bytes",
        }[name]
        height, width = self._hw
        return EconError(f"{expected}, with H = {height}, W = {width}, in {self._path}", got)


def _joined(parts: Sequence[Known]) -> Known:
    """Parts of a batch as one, each with as many slots as the fullest has."""
    if len(parts) == 1:
        return parts[0]
    slots = max(part.region.shape[1] for part in parts)

    def join(field: str, empty: int) -> Tensor | None:
        if getattr(parts[0], field) is None:
            return None
        tensors = [getattr(part, field) for part in parts]
        return torch.cat([
            torch.cat([t, t.new_full((len(t), slots - t.shape[1], *t.shape[2:]), empty)], 1)
            for t in tensors
        ])  # fmt: skip

    region = join("region", 0)
    assert region is not None
    return Known(region, join("mask", 0), join("label", -1))


def depth_order(region: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Slots of one scene from front to back.

    Where i is seen and j's mask is, i hides j. Slots that hide nobody and are hidden by nobody
    keep their places; objects that hide one another both ways come as near as can be.

    Args:
        region: visible parts, ``(N, H, W)`` bool.
        mask: whole objects, ``(N, H, W)`` bool.

    Returns:
        ``(N,)`` int64.
    """
    n = len(region)
    seen, whole = (a.reshape(n, -1).astype(np.float32) for a in (region, mask))
    hides = (seen @ whole.T > 0) & ~np.eye(n, dtype=bool)
    order, left = [], list(range(n))
    while left:
        front = min(left, key=lambda i: int(hides[left, i].sum()))
        order.append(front)
        left.remove(front)
    return np.array(order, np.int64)


def _rank(numbers: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects of each image numbered from 1, and what they were called before, -1 for none."""
    ranks = np.zeros(numbers.shape, np.int32)
    names = []
    for b, (image, first) in enumerate(zip(numbers, firsts, strict=True)):
        own = np.unique(image[image >= first])
        ranks[b] = np.where(image >= first, np.searchsorted(own, image) + 1, 0)
        names.append(own)
    columns = np.full((len(names), max(map(len, names), default=0)), -1, np.int64)
    for b, own in enumerate(names):
        columns[b, : len(own)] = own
    return ranks, columns


def _by_slot(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), 1)


def _square(values: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Nearest neighbours: numbers and masks do not mix."""
    picture = Image.fromarray(values.astype(np.int32))
    return np.array(to_square(picture, size, fit, Image.Resampling.NEAREST)).astype(values.dtype)
