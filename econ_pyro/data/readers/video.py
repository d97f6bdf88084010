"""Frames of a picture, an animation or a video, one after another.

GIF, APNG and WebP come through Pillow. Other moving pictures need PyAV, which brings FFmpeg's
decoders along (extra: video). Only one frame at a time is in memory.

FFmpeg also takes playlists and scripts, which name other files and addresses; it tells them by
what is in a file, whatever its name. So it is given an open file in place of a name, a list of the
formats of videos, and no way to open anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from econ_pyro.data import deep_colour
from econ_pyro.data.images import Fit, check_pixels, opened, reading, to_rgb, to_square
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import first_line, open_regular

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv")
MOST_PIXELS = 1 << 32
"""Pixels of all frames of an animation together (2,000 frames of a large screen)."""
_ANIMATED = ("GIF", "PNG", "WEBP")  # a JPEG's further pictures are previews, not frames
_VIDEOS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpeg", "mpegvideo", "mpegts", "m4v", "ogg",
    "asf",
)  # fmt: skip


class Frame(NamedTuple):
    """One picture."""

    pixels: np.ndarray
    """``(H, W, 3)`` uint8."""
    native: tuple[int, int]
    """Width and height in the file."""
    mode: str
    """Colours in the file, as Pillow calls them: L, RGB, RGBA, ..."""


def is_video(path: Path) -> bool:
    """Whether a file's beginning, or else its name, is a video's.

    Raises:
        EconError: there is no such file.
    """
    with open_regular(path, "an image or a video") as file:
        head = file.read(12)
    return (
        head[4:8] == b"ftyp"
        or head[:4] == b"\x1aE\xdf\xa3"
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or path.suffix.lower() in VIDEO_SUFFIXES
    )


def frames(
    path: Path, size: int | None = None, fit: Fit = "crop", most: int | None = None
) -> Iterator[Frame]:
    """The frames of a file, all or the first ones; a plain picture has one.

    Args:
        path: PNG, JPEG, GIF, WebP, or a video.
        size: height and width of the result in pixels; the file's own if not given.
        fit: how a picture becomes square.
        most: frames that are wanted.

    Raises:
        EconError: it cannot be read, or cannot be read any further; or it is too large.
    """
    read = _video if is_video(path) else _pictures
    return read(path, size, fit, most)


def _pictures(path: Path, size: int | None, fit: Fit, most: int | None) -> Iterator[Frame]:
    with opened(path) as image:
        with reading(path):
            count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
            count = count if most is None else min(count, most)
            if count > 1 and count * image.width * image.height > MOST_PIXELS:
                raise EconError(
                    f"an animation of at most {MOST_PIXELS:,} pixels in all its frames",
                    f"which has {count:,} frames of {image.width} x {image.height}",
                    "take fewer with --limit, or scale it down",
                )
        for number in range(count):
            with reading(path):
                if number:
                    image.seek(number)
                native, mode = image.size, image.mode
                shallow = deep_colour.shallow(image) if count == 1 else image
                frame = Frame(np.array(to_square(to_rgb(shallow), size, fit)), native, mode)
            yield frame


def _video(path: Path, size: int | None, fit: Fit, most: int | None) -> Iterator[Frame]:
    try:
        import av
    except ImportError:
        raise EconError(
            "the package av, to read videos", "none installed", "pip install 'econ-pyro[video]'"
        ) from None
    alone = {"format_whitelist": ",".join(_VIDEOS), "protocol_whitelist": ""}
    with open_regular(path, "a readable video") as file:
        try:
            with av.open(file, "r", container_options=alone) as container:
                if not container.streams.video:
                    raise EconError("a readable video", f"{path}, which holds no pictures")
                _limit(container.streams.video[0].codec_context, path)
                for number, frame in enumerate(container.decode(video=0)):
                    if number == most:
                        return
                    check_pixels(frame.width, frame.height, path)
                    image = frame.to_image()
                    if turn := getattr(frame, "rotation", 0):  # how the camera was held
                        image = image.rotate(turn, expand=True)
                    native = image.size
                    yield Frame(np.array(to_square(image, size, fit)), native, "RGB")
        except EconError:
            raise
        except Exception as error:  # PyAV raises FFmpeg's errors, and Python's for odd values
            reason = getattr(error, "strerror", None) or first_line(error)
            raise EconError("a readable video", f"{path} ({reason.lower()})") from error


def _limit(codec: Any, path: Path) -> None:
    """Have a decoder refuse frames that would fill the memory, also those that come later."""
    check_pixels(codec.width, codec.height, path)
    if Image.MAX_IMAGE_PIXELS is not None:
        codec.options = {"max_pixels": str(Image.MAX_IMAGE_PIXELS)}
