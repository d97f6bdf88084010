"""Pictures from files and from users: RGB of one size, or an error that names what is wrong.

PNG, JPEG, GIF and WebP are read; video files are :mod:`econ_pyro.data.readers.video`.

The turn that a camera wrote into the file (EXIF) is applied. Transparent parts become white, the
page that such pictures are usually drawn for. 16 bits a channel become 8. Of an animation the
first picture is taken.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from econ_pyro.data import deep_colour
from econ_pyro.errors import EconError, printable
from econ_pyro.files.untrusted import open_regular, walk

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
KINDS = "PNG, JPEG, GIF or WebP"
Fit = Literal["crop", "resize"]
"""How a picture becomes square: crop keeps its middle, resize stretches it."""
MOST_BYTES = 512 << 20
"""Bytes of the largest picture file that is read: some are held in memory as a whole."""
MOST_SCANS = 100
"""Passes over a JPEG's pixels: encoders make some ten, each takes as long as the whole."""
_STRIP = 1 << 20  # pixels that are put on white together


def read_image(path: Path | str, size: int | None = None, fit: Fit = "crop") -> Tensor:
    """Read one picture.

    Args:
        path: a PNG, JPEG, GIF or WebP file.
        size: height and width of the result in pixels; the picture's own if not given.
        fit: how a picture becomes square.

    Returns:
        :math:`(3, H, W)` float32 in [0, 1].

    Raises:
        EconError: there is no such file, or it cannot be read as a picture.
    """
    hwc = torch.from_numpy(decode(path, size, fit))
    return hwc.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255


def decode(path: Path | str, size: int | None = None, fit: Fit = "crop") -> np.ndarray:
    """The same as :func:`read_image` but ``(H, W, 3)`` uint8."""
    return _decode(path, lambda image: to_square(to_rgb(image), size, fit))


def decode_cutout(path: Path | str) -> np.ndarray:
    """One picture with its alpha, ``(H, W, 4)`` uint8, not premultiplied.

    Raises:
        EconError: it cannot be read as a picture, or has no alpha.
    """
    return _decode(path, _to_rgba)


def _decode(path: Path | str, convert: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    path = Path(path)
    with opened(path) as image, reading(path):
        return np.array(convert(deep_colour.shallow(image)))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture file, whose pixels are not decoded yet.

    Raises:
        EconError: there is no such file, or it is too large a picture, or none.
    """
    with open_regular(path, "an image file") as file:
        with reading(path):
            size = file.seek(0, 2)
            file.seek(0)
            if size > MOST_BYTES:
                raise EconError(
                    f"an image file of at most {MOST_BYTES:,} bytes", f"which has {size:,}"
                )
            if (scans := count_scans(file)) > MOST_SCANS:
                expected = f"a JPEG file of at most {MOST_SCANS} scans"
                raise EconError(expected, f"which has {scans:,}", "save it anew")
            # its decoder takes memory for all pixels before anybody can ask for their number
            check_pixels(*webp_size(file), path)
            image = Image.open(file, formats=FORMATS)
        with image:
            yield image


def count_scans(file: BinaryIO) -> int:
    """In how many passes a JPEG file is to be decoded, each as long as the whole; 0 if it is none.

    The file is at its beginning, before and after.
    """
    scans, last = 0, b""
    if file.read(2) == b"\xff\xd8":
        while block := file.read(1 << 20):
            scans += (last + block).count(b"\xff\xda")
            last = block[-1:]
    file.seek(0)
    return scans


def check_pixels(width: int, height: int, path: Path) -> None:
    """Check that a picture fits into memory, before it is decoded.

    Raises:
        EconError: it has more pixels than Pillow's limit.
    """
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise too_large(path)


def too_large(path: Path) -> EconError:
    """The error for a picture that would fill the memory."""
    most = Image.MAX_IMAGE_PIXELS
    return EconError(
        f"an image of at most {most:,} pixels", f"{path}, which is larger", "scale it down first"
    )


def webp_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height that a WebP file declares; 0 if it is none."""
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
def reading(path: Path) -> Iterator[None]:
    """Whatever Pillow stumbles on in the block becomes an error that names the file.

    Raises:
        EconError: the file is too large a picture, or none.
    """
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to stop, a picture that fills the memory is.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(path) from error
    except EconError as error:
        named = str(path) in error.got
        got = error.got if named else f"{path}, {error.got}"
        raise EconError(error.expected, got, error.hint) from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise EconError(f"a readable {KINDS} image", f"{path} ({_reason(error)})") from error


def source_box(width: int, height: int, fit: Fit) -> tuple[float, float, float, float]:
    """What of a picture becomes the square one, in its own pixels.

    Args:
        width: of the picture.
        height: of the picture.
        fit: how it becomes square.

    Returns:
        Left, top, right and bottom; halves of pixels occur.
    """
    if fit == "resize":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """Image files by name: each path that is a file, and the images of each folder.

    Raises:
        EconError: a path does not exist, or a folder has no file with an image's ending.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise EconError("an image file or a folder of them", f"{path}: no such file")
            found.append(path)
            continue
        files, odd = walk(path, "images")
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        if odd:
            warn_of_skipped(list(odd.values()), len(files) + len(odd), "regular files")
        if not images:
            raise EconError(
                f"files called {', '.join(SUFFIXES)}", f"{path}, which has none", "name the files"
            )
        found += images
    return found


def warn_of_skipped(errors: Sequence[EconError], of: int, what: str, level: int = 3) -> None:
    """Warn of files of a folder that are left out, naming the first three.

    Args:
        errors: what was wrong with each.
        of: how many files there are.
        what: what they are not.
        level: whose call the warning is about, as for :func:`warnings.warn`.
    """
    shown = "; ".join(error.got for error in errors[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    text = f"skipped {len(errors)} of {of} files that are not {what}: {shown}{more}"
    warnings.warn(printable(text), stacklevel=level)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a {KINDS}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, turned as its camera says, on white."""
    image = _upright(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    out = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):  # all at once, a large one takes four times as much
        strip = image.crop((0, top, image.width, min(image.height, top + rows))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        out.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return out


def to_square(
    image: Image.Image,
    size: int | None,
    fit: Fit,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """A picture at ``size`` x ``size`` pixels, or as it is if no size is given."""
    if size is None or image.size == (size, size):
        return image
    return image.resize((size, size), resample, source_box(*image.size, fit))


def _to_rgba(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        raise EconError(
            "a picture with a transparent background", "which has no transparency", "cut it out"
        )
    return _upright(image).convert("RGBA")


def _upright(image: Image.Image) -> Image.Image:
    """A picture turned as its camera says; itself, not a copy, if there is nothing to turn."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # odd metadata is no reason to stop, and has many ways to be odd
        turn = 1
    return image if turn == 1 else ImageOps.exif_transpose(image)
