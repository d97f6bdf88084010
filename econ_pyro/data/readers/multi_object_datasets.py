"""The record files of google-deepmind/multi_object_datasets as arrays.

Records do not say what shape their bytes have; it is told from how many there are and which other
features there are. Images are stored by rows, masks as 0 and 255, entities first, the background
among them; in multi_dsprites entities come last.

=================  =========================  ==================================================
set                image                      told by
=================  =========================  ==================================================
multi_dsprites     64x64, RGB or grey         a feature ``orientation``
objects_room       64x64                      image and mask alone; 3 or 4 are background
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

from econ_pyro.data.images import Fit, to_square
from econ_pyro.data.readers import objects_room
from econ_pyro.data.readers.arrays import Arrays
from econ_pyro.data.readers.disk_array import Spool
from econ_pyro.data.readers.tfrecord import example, records
from econ_pyro.errors import EconError

_COLUMNS = {"shape": "label", "visibility": "visibility"}


class _Layout(NamedTuple):
    name: str
    frames: int
    height: int
    width: int
    channels: int
    background: int = 1


_SETS = (
    _Layout("multi_dsprites", 1, 64, 64, 3),
    _Layout("multi_dsprites (binarized)", 1, 64, 64, 1),
    _Layout("tetrominoes", 1, 35, 35, 3),
    _Layout("clevr_with_masks", 1, 240, 320, 3),
    _Layout("cater_with_masks", 33, 64, 64, 3),
)
_ROOM = _Layout("objects_room", 1, 64, 64, 3, background=objects_room.MOST)


def read_records(paths: Sequence[Path], size: int, fit: Fit, limit: int) -> Arrays:
    """Decode record files once, as far as the limit.

    Args:
        paths: parts of one set, in order.
        size: height and width of the images in pixels.
        fit: how images become square.
        limit: most images to decode; a record of cater_with_masks is 33 of them.

    Raises:
        EconError: a file is damaged, or not of one of these sets.
    """
    spools = {name: Spool() for name in ("image", "mask", *_COLUMNS.values())}
    layout, more, same = None, False, None
    for path, number, data in _numbered(paths):
        if len(spools["image"]) >= limit:
            more = True
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
        same = same or form
        if form != same:
            raise EconError(
                f"records alike, each with masks of {same[0]} entities and the same features",
                f"{path}, record {number}, with {entities} and {_said(features)}",
            )
        for image, mask in zip(images, masks, strict=True):
            # a row of grey or of RGB; numbers of objects, which must not be mixed
            spools["image"].append(_square(image, size, fit, Image.Resampling.BILINEAR))
            spools["mask"].append(_square(mask, size, fit, Image.Resampling.NEAREST))
            for feature, column in _COLUMNS.items():
                if features.get(feature, image).size == entities:
                    spools[column].append(features[feature].astype(np.float32))
    if layout is None:
        raise EconError("records", f"{paths[0]}, which holds none")
    n = len(spools["image"])
    return Arrays(
        path=paths[0],
        kind=f"TFRecords of {layout.name}",
        kept="pixels and masks at the model's size, in a temporary file",
        rows={name: spool.array()[:limit] for name, spool in spools.items() if len(spool) == n},
        background=layout.background,
        native=(layout.width, layout.height),
        sequential=layout.frames > 1,
        more=more or n > limit,
    )


def _numbered(paths: Sequence[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for path in paths:
        for number, data in enumerate(records(path)):
            yield path, number, data


def _layout(path: Path, features: dict[str, np.ndarray]) -> _Layout:
    image = features.get("image", np.empty(0))
    if set(features) == {"image", "mask"} and image.size == 64 * 64 * 3:
        return _ROOM
    for layout in _SETS:
        if image.size == layout.frames * layout.height * layout.width * layout.channels:
            return layout
    names = ", ".join(layout.name for layout in (*_SETS, _ROOM))
    raise EconError(f"records of {names}", f"{path}, with {_said(features)}")


def _said(features: dict[str, np.ndarray]) -> str:
    some = sorted(features.items())[:20]
    said = ", ".join(f"{name[:40]} ({v.size} {v.dtype})" for name, v in some)
    return (said or "no features") + ", ..." * (len(features) > len(some))


def _frames(
    path: Path, number: int, layout: _Layout, features: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Images ``(F, H, W, C)``, numbers of objects ``(F, H, W)``, and how many there can be."""
    _, frames, h, w, channels, _ = layout
    image, mask = (features.get(name, np.empty(0, np.uint8)) for name in ("image", "mask"))
    if image.dtype != np.uint8 or mask.dtype != np.uint8:
        raise EconError(
            "images and masks as bytes", f"{path}, record {number}, with {_said(features)}"
        )
    pixels = frames * h * w
    entities, rest = divmod(mask.size, pixels)
    if image.size != pixels * channels or not entities or rest or entities > 255:
        raise EconError(
            f"an image of {pixels * channels} bytes and masks of a multiple of {pixels}, as in "
            f"{layout.name}",
            f"{path}, record {number}, with {image.size} and {mask.size}",
        )
    if "orientation" in features:
        stack = mask.reshape(frames, h, w, entities).argmax(-1)
    else:
        stack = mask.reshape(frames, entities, h, w).argmax(1)
    if layout is _ROOM:  # objects begin at the same number in all
        fewer = objects_room.MOST - objects_room.background_parts(stack, entities)
        stack += (stack >= objects_room.MOST - 1) * fewer[:, None, None]
    return image.reshape(frames, h, w, channels), stack.astype(np.uint8), entities


def _square(values: np.ndarray, size: int, fit: Fit, how: Image.Resampling) -> np.ndarray:
    grey = values[..., 0] if values.shape[-1] == 1 else values
    return np.array(to_square(Image.fromarray(grey), size, fit, how))
