"""Reading PNG, JPEG, GIF and WebP images as RGB of one size.

The EXIF orientation is applied, transparent pixels are blended with white, and 16 bits per channel
are reduced to 8. Of an animation, the first frame is read; for all frames and for videos see
:mod:`econ_pyro.data.readers.video`.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from econ_pyro.data import bit_depth
from econ_pyro.data.resize import Fit, Resample, to_square
from econ_pyro.errors import EconError, printable
from econ_pyro.files.untrusted import open_regular, walk

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
FORMAT_NAMES = "PNG, JPEG, GIF or WebP"
MAX_BYTES = 512 << 20
"""Maximum size of an image file in bytes; some formats are held in memory as a whole."""
MAX_SCANS = 100
"""Maximum scans of a JPEG file; encoders write about ten, and each costs a full decoding pass."""
_STRIP = 1 << 20  # pixels blended with white at a time


def read_image(
    path: Path | str, size: int | None = None, fit: Fit = "crop", resample: Resample = "auto"
) -> Tensor:
    """Read an image.

    Args:
        path: a PNG, JPEG, GIF or WebP file.
        size: height and width of the result in pixels; default: the original size.
        fit: how the image is made square.
        resample: how it is resized.

    Returns:
        :math:`(3, H, W)` float32 in [0, 1].

    Raises:
        EconError: the file does not exist or is not a readable image.
    """
    hwc = torch.from_numpy(decode(path, size, fit, resample))
    return hwc.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255


def decode(
    path: Path | str, size: int | None = None, fit: Fit = "crop", resample: Resample = "auto"
) -> np.ndarray:
    """Like :func:`read_image`, but ``(H, W, 3)`` uint8."""
    return _decode(path, lambda image: to_square(to_rgb(image), size, fit, resample))


def decode_cutout(path: Path | str) -> np.ndarray:
    """Read an image with straight alpha, ``(H, W, 4)`` uint8.

    Raises:
        EconError: the file is not a readable image, or has no alpha channel.
    """
    return _decode(path, _to_rgba)


def _decode(path: Path | str, convert: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    path = Path(path)
    with open_image(path) as image, pillow_errors(path):
        return np.array(convert(bit_depth.to_8_bit(image)))


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file without decoding its pixels.

    Raises:
        EconError: the file does not exist, is not an image, or is too large.
    """
    with open_regular(path, "an image file") as file:
        with pillow_errors(path):
            size = file.seek(0, 2)
            file.seek(0)
            if size > MAX_BYTES:
                raise EconError(
                    f"an image file of at most {MAX_BYTES:,} bytes", f"which has {size:,}"
                )
            if (scans := count_scans(file)) > MAX_SCANS:
                expected = f"a JPEG file of at most {MAX_SCANS} scans"
                raise EconError(expected, f"which has {scans:,}", "re-encode it")
            # Pillow's WebP decoder allocates all pixels when it opens a file
            check_pixels(*webp_size(file), path)
            image = Image.open(file, formats=FORMATS)
        with image:
            yield image


def count_scans(file: BinaryIO) -> int:
    """Number of scans of a JPEG file; 0 for other formats.

    The file position has to be 0, and is 0 afterwards.
    """
    scans, last = 0, b""
    if file.read(2) == b"\xff\xd8":
        while block := file.read(1 << 20):
            scans += (last + block).count(b"\xff\xda")
            last = block[-1:]
    file.seek(0)
    return scans


def check_pixels(width: int, height: int, path: Path) -> None:
    """Check the size of an image before it is decoded.

    Raises:
        EconError: the image exceeds Pillow's limit.
    """
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise too_large_error(path)


def too_large_error(path: Path) -> EconError:
    """The error for an image that exceeds Pillow's limit."""
    most = Image.MAX_IMAGE_PIXELS
    return EconError(
        f"an image of at most {most:,} pixels", f"{path}, which is larger", "scale it down first"
    )


def webp_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height that a WebP file declares; 0, 0 for other formats."""
    head = file.read(30)
    file.seek(0)
    kind = (
        head[12:16] if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) == 30 else b""
    )
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


@contextmanager
def pillow_errors(path: Path) -> Iterator[None]:
    """Convert Pillow's exceptions within the block into errors that name the file.

    Raises:
        EconError: the file is not a readable image, or is too large.
    """
    try:
        with warnings.catch_warnings():
            # ignore warnings about metadata, but not about huge images
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large_error(path) from error
    except EconError as error:
        named = str(path) in error.got
        got = error.got if named else f"{path}, {error.got}"
        raise EconError(error.expected, got, error.hint) from None
    except Exception as error:  # Pillow's decoders raise any exception
        got = f"{path} ({_reason(error)})"
        raise EconError(f"a readable {FORMAT_NAMES} image", got) from error


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """List image files: every path that is a file, and the images of every folder.

    Raises:
        EconError: a path does not exist, or a folder has no files with an image suffix.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise EconError("an image file or a folder of them", f"{path}: no such file")
            found.append(path)
            continue
        files, irregular = walk(path, "images")
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        if irregular:
            warn_skipped(list(irregular.values()), len(files) + len(irregular), "regular files")
        if not images:
            raise EconError(
                f"files called {', '.join(SUFFIXES)}", f"{path}, which has none", "name the files"
            )
        found += images
    return found


def warn_skipped(
    errors: Sequence[EconError], total: int, expected: str, stacklevel: int = 3
) -> None:
    """Warn about skipped files of a folder, naming the first three.

    Args:
        errors: the error of each skipped file.
        total: number of files in the folder.
        expected: what the files should be, in the plural.
        stacklevel: as for :func:`warnings.warn`.
    """
    first = "; ".join(error.got for error in errors[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    text = f"skipped {len(errors)} of {total} files that are not {expected}: {first}{more}"
    warnings.warn(printable(text), stacklevel=stacklevel)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a {FORMAT_NAMES}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to upright RGB, blended with white."""
    image = _upright(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    out = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):  # in strips, to save memory
        strip = image.crop((0, top, image.width, min(image.height, top + rows))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        out.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return out


def _to_rgba(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        raise EconError(
            "a picture with a transparent background", "which has no transparency", "cut it out"
        )
    return _upright(image).convert("RGBA")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; returns ``image`` itself if it is upright."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata, for which Pillow raises any exception
        orientation = 1
    return image if orientation == 1 else ImageOps.exif_transpose(image)
