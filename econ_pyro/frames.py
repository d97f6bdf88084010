"""Frames of a picture, an animation or a video, one after another.

GIF, APNG and WebP come through Pillow. Other moving pictures need PyAV, which brings FFmpeg's
decoders along (extra: video). Only one frame at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from econ_pyro.errors import EconError
from econ_pyro.images import FORMATS, Fit, reading, to_rgb, to_square

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv")
_ANIMATED = ("GIF", "PNG", "WEBP")  # a JPEG's further pictures are previews, not frames


class Frame(NamedTuple):
    """One picture."""

    pixels: np.ndarray
    """``(H, W, 3)`` uint8."""
    native: tuple[int, int]
    """Width and height in the file."""
    mode: str
    """Colours in the file, as Pillow calls them: L, RGB, RGBA, ..."""


def is_video(path: Path) -> bool:
    """Whether a file's beginning, or else its name, is a video's."""
    with open(path, "rb") as file:
        head = file.read(12)
    return (
        head[4:8] == b"ftyp"
        or head[:4] == b"\x1aE\xdf\xa3"
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or path.suffix.lower() in VIDEO_SUFFIXES
    )


def frames(path: Path, size: int | None = None, fit: Fit = "crop") -> Iterator[Frame]:
    """All frames of a file; a plain picture has one.

    Args:
        path: PNG, JPEG, GIF, WebP, or a video.
        size: height and width of the result in pixels; the file's own if not given.
        fit: how a picture becomes square.

    Raises:
        EconError: it cannot be read, or cannot be read any further.
    """
    read = _video if is_video(path) else _pictures
    return read(path, size, fit)


def _pictures(path: Path, size: int | None, fit: Fit) -> Iterator[Frame]:
    with reading(path):
        image = Image.open(path, formats=FORMATS)
    with image:
        with reading(path):
            count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
        for number in range(count):
            with reading(path):
                image.seek(number)
                native, mode = image.size, image.mode
                frame = Frame(np.array(to_square(to_rgb(image), size, fit)), native, mode)
            yield frame


def _video(path: Path, size: int | None, fit: Fit) -> Iterator[Frame]:
    try:
        import av
    except ImportError:
        raise EconError(
            "the package av, to read videos", "none installed", "pip install 'econ-pyro[video]'"
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise EconError("a readable video", f"{path}, which holds no pictures")
            for frame in container.decode(video=0):
                image = frame.to_image()
                if turn := getattr(frame, "rotation", 0):  # how the camera was held
                    image = image.rotate(turn, expand=True)
                native = image.size
                yield Frame(np.array(to_square(image, size, fit)), native, "RGB")
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EconError("a readable video", f"{path} ({reason.lower()})") from error
