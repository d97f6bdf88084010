"""Frames of images, animations and videos, decoded one at a time.

Pillow reads GIF, APNG and WebP. Videos need PyAV, which includes FFmpeg's decoders (extra: video).

FFmpeg also accepts playlists and scripts, which refer to other files and URLs, and detects them by
content whatever their name. It is therefore given an open file instead of a path, a whitelist of
video formats, and an empty whitelist of protocols.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from econ_pyro.data import bit_depth
from econ_pyro.data.images import check_pixels, open_image, pillow_errors, to_rgb
from econ_pyro.data.resize import Fit, Resample, to_square
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import first_line, open_regular

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv")
MAX_PIXELS = 1 << 32
"""Maximum pixels of all frames of an animation (2,000 frames of a large screen)."""
_ANIMATED = ("GIF", "PNG", "WEBP")  # further images in a JPEG file are previews, not frames
_VIDEOS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpeg", "mpegvideo", "mpegts", "m4v", "ogg",
    "asf",
)  # fmt: skip


class Frame(NamedTuple):
    """One decoded frame."""

    pixels: np.ndarray
    """``(H, W, 3)`` uint8."""
    original_size: tuple[int, int]
    """Width and height in the file."""
    mode: str
    """Pillow's colour mode of the file: L, RGB, RGBA, ..."""


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its signature or else by its suffix.

    Raises:
        EconError: the file does not exist.
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
    path: Path,
    size: int | None = None,
    fit: Fit = "crop",
    limit: int | None = None,
    resample: Resample = "auto",
) -> Iterator[Frame]:
    """Decode the frames of a file; a still image has one.

    Args:
        path: a PNG, JPEG, GIF, WebP or video file.
        size: height and width of the result in pixels; default: the original size.
        fit: how frames are made square.
        limit: maximum number of frames.
        resample: how frames are resized.

    Raises:
        EconError: a frame cannot be decoded, or the file is too large.
    """
    read = _video if is_video(path) else _images
    return read(path, size, fit, limit, resample)


def _images(
    path: Path, size: int | None, fit: Fit, limit: int | None, resample: Resample
) -> Iterator[Frame]:
    with open_image(path) as image:
        with pillow_errors(path):
            count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
            count = count if limit is None else min(count, limit)
            if count > 1 and count * image.width * image.height > MAX_PIXELS:
                raise EconError(
                    f"an animation of at most {MAX_PIXELS:,} pixels in all its frames",
                    f"which has {count:,} frames of {image.width} x {image.height}",
                    "take fewer with --limit, or scale it down",
                )
        for number in range(count):
            with pillow_errors(path):
                if number:
                    image.seek(number)
                original_size, mode = image.size, image.mode
                converted = bit_depth.to_8_bit(image) if count == 1 else image
                pixels = np.array(to_square(to_rgb(converted), size, fit, resample))
                frame = Frame(pixels, original_size, mode)
            yield frame


def _video(
    path: Path, size: int | None, fit: Fit, limit: int | None, resample: Resample
) -> Iterator[Frame]:
    try:
        import av
    except ImportError:
        raise EconError(
            "the package av, to read videos", "none installed", "pip install 'econ-pyro[video]'"
        ) from None
    options = {"format_whitelist": ",".join(_VIDEOS), "protocol_whitelist": ""}
    with open_regular(path, "a readable video") as file:
        try:
            with av.open(file, "r", container_options=options) as container:
                if not container.streams.video:
                    raise EconError("a readable video", f"{path}, which holds no pictures")
                _limit_pixels(container.streams.video[0].codec_context, path)
                for number, frame in enumerate(container.decode(video=0)):
                    if number == limit:
                        return
                    check_pixels(frame.width, frame.height, path)
                    image = frame.to_image()
                    if angle := getattr(frame, "rotation", 0):  # orientation of the camera
                        image = image.rotate(angle, expand=True)
                    pixels = np.array(to_square(image, size, fit, resample))
                    yield Frame(pixels, image.size, "RGB")
        except EconError:
            raise
        except Exception as error:  # PyAV raises FFmpeg's errors, and Python's for invalid values
            reason = getattr(error, "strerror", None) or first_line(error)
            raise EconError("a readable video", f"{path} ({reason.lower()})") from error


def _limit_pixels(codec: Any, path: Path) -> None:
    """Make the decoder refuse huge frames, including later ones."""
    check_pixels(codec.width, codec.height, path)
    if Image.MAX_IMAGE_PIXELS is not None:
        codec.options = {"max_pixels": str(Image.MAX_IMAGE_PIXELS)}
