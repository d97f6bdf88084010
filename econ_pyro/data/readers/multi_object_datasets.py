"""The TFRecords of google-deepmind/multi_object_datasets as arrays.

Records do not contain the shape of their images; it is inferred from the number of bytes and the
names of the features. Images are row-major. Masks have values 0 and 255, one per entity including
the background; the entity axis is first, in multi_dsprites last.

=================  =========================  ==================================================
dataset            image                      identified by
=================  =========================  ==================================================
multi_dsprites     64x64, RGB or grey         a feature ``orientation``
objects_room       64x64                      no features but image and mask
tetrominoes        35x35                      size
clevr_with_masks   240x320                    size
cater_with_masks   33 frames of 64x64         size
=================  =========================  ==================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from econ_pyro.data.readers import objects_room
from econ_pyro.data.readers.arrays import ArrayFile
from econ_pyro.data.readers.disk_array import DiskArray
from econ_pyro.data.readers.tfrecord import example, records
from econ_pyro.data.resize import Fit, Resample, to_square
from econ_pyro.errors import EconError

_COLUMNS = {"shape": "label", "visibility": "visibility"}


class _Layout(NamedTuple):
    name: str
    frames: int
    height: int
    width: int
    channels: int
    background: int = 1


_DATASETS = (
    _Layout("multi_dsprites", 1, 64, 64, 3),
    _Layout("multi_dsprites (binarized)", 1, 64, 64, 1),
    _Layout("tetrominoes", 1, 35, 35, 3),
    _Layout("clevr_with_masks", 1, 240, 320, 3),
    _Layout("cater_with_masks", 33, 64, 64, 3),
)
_OBJECTS_ROOM = _Layout("objects_room", 1, 64, 64, 3, background=objects_room.MAX_BACKGROUND)


def read_tfrecords(
    paths: Sequence[Path], size: int, fit: Fit, limit: int, resample: Resample = "auto"
) -> ArrayFile:
    """Decode TFRecord files once, up to a limit.

    Args:
        paths: files of one dataset, in order.
        size: height and width of the resized images in pixels.
        fit: how images are made square.
        limit: maximum number of images; a record of cater_with_masks has 33.
        resample: how images are resized; masks are by nearest neighbours.

    Raises:
        EconError: a file is damaged, or belongs to another dataset.
    """
    disk_arrays = {name: DiskArray() for name in ("image", "mask", *_COLUMNS.values())}
    layout, truncated, first_form = None, False, None
    for path, number, data in _numbered(paths):
        if len(disk_arrays["image"]) >= limit:
            truncated = True
            break
        try:
            features = example(data)
        except ValueError as error:
            raise EconError(
                "records that are tf.train.Examples", f"{path}, record {number}: {error}"
            ) from error
        layout = layout or _layout(path, features)
        images, masks, entities = _frames(path, number, layout, features)
        form = entities, set(features)
        first_form = first_form or form
        if form != first_form:
            raise EconError(
                f"records with masks of {first_form[0]} entities each and the same features",
                f"{path}, record {number}, with {entities} and {_summary(features)}",
            )
        for image, mask in zip(images, masks, strict=True):
            disk_arrays["image"].append(_square(image, size, fit, resample))
            disk_arrays["mask"].append(_square(mask, size, fit, "nearest"))
            for feature, column in _COLUMNS.items():
                if features.get(feature, image).size == entities:
                    disk_arrays[column].append(features[feature].astype(np.float32))
    if layout is None:
        raise EconError("records", f"{paths[0]}, which holds none")
    n = len(disk_arrays["image"])
    arrays = {name: rows.array()[:limit] for name, rows in disk_arrays.items() if len(rows) == n}
    return ArrayFile(
        path=paths[0],
        kind=f"TFRecords of {layout.name}",
        storage="pixels and masks at the model's size, in a temporary file",
        arrays=arrays,
        background=layout.background,
        original_size=(layout.width, layout.height),
        sequential=layout.frames > 1,
        truncated=truncated or n > limit,
    )


def _numbered(paths: Sequence[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for path in paths:
        for number, data in enumerate(records(path)):
            yield path, number, data


def _layout(path: Path, features: dict[str, np.ndarray]) -> _Layout:
    image = features.get("image", np.empty(0))
    if set(features) == {"image", "mask"} and image.size == 64 * 64 * 3:
        return _OBJECTS_ROOM
    for layout in _DATASETS:
        if image.size == layout.frames * layout.height * layout.width * layout.channels:
            return layout
    names = ", ".join(layout.name for layout in (*_DATASETS, _OBJECTS_ROOM))
    raise EconError(f"records of {names}", f"{path}, with {_summary(features)}")


def _summary(features: dict[str, np.ndarray]) -> str:
    first = sorted(features.items())[:20]
    text = ", ".join(f"{name[:40]} ({v.size} {v.dtype})" for name, v in first)
    return (text or "no features") + ", ..." * (len(features) > len(first))


def _frames(
    path: Path, number: int, layout: _Layout, features: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Images ``(F, H, W, C)``, index maps ``(F, H, W)``, and the number of entities."""
    _, frames, h, w, channels, _ = layout
    image, mask = (features.get(name, np.empty(0, np.uint8)) for name in ("image", "mask"))
    if image.dtype != np.uint8 or mask.dtype != np.uint8:
        raise EconError(
            "images and masks as bytes", f"{path}, record {number}, with {_summary(features)}"
        )
    pixels = frames * h * w
    entities, remainder = divmod(mask.size, pixels)
    if image.size != pixels * channels or not entities or remainder or entities > 255:
        raise EconError(
            f"an image of {pixels * channels} bytes and masks of a multiple of {pixels}, as in "
            f"{layout.name}",
            f"{path}, record {number}, with {image.size} and {mask.size}",
        )
    if "orientation" in features:
        stack = mask.reshape(frames, h, w, entities).argmax(-1)
    else:
        stack = mask.reshape(frames, entities, h, w).argmax(1)
    if layout is _OBJECTS_ROOM:  # shift indices so that objects begin at the same one everywhere
        fewer = objects_room.MAX_BACKGROUND - objects_room.background_parts(stack, entities)
        stack += (stack >= objects_room.MAX_BACKGROUND - 1) * fewer[:, None, None]
    return image.reshape(frames, h, w, channels), stack.astype(np.uint8), entities


def _square(values: np.ndarray, size: int, fit: Fit, resample: Resample) -> np.ndarray:
    grey = values[..., 0] if values.shape[-1] == 1 else values
    return np.array(to_square(Image.fromarray(grey), size, fit, resample))
