"""Pictures from files and from users: RGB of one size, or an error that names what is wrong.

PNG, JPEG, GIF and WebP are read; video files are :mod:`econ_pyro.frames`.

The turn that a camera wrote into the file (EXIF) is applied. Transparent parts become white, the
page that such pictures are usually drawn for. 16 bits a channel become 8. Of an animation the
first picture is taken.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from econ_pyro.errors import EconError

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
KINDS = "PNG, JPEG, GIF or WebP"
Fit = Literal["crop", "resize"]
"""How a picture becomes square: crop keeps its middle, resize stretches it."""


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
    if not path.exists():
        raise EconError("an image file", f"{path}, which does not exist")
    if not path.is_file():
        raise EconError("an image file", f"{path}, which is not a file")
    with reading(path), Image.open(path, formats=FORMATS) as image:
        return np.array(convert(image))


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
        raise EconError(
            f"an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels",
            f"{path}, which is larger",
            "scale it down first",
        ) from error
    except EconError as error:
        raise EconError(error.expected, f"{path}, {error.got}", error.hint) from None
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
        images = [file for file in list_files(path) if file.suffix.lower() in SUFFIXES]
        if not images:
            raise EconError(
                f"files called {', '.join(SUFFIXES)}", f"{path}, which has none", "name the files"
            )
        found += images
    return found


def list_files(folder: Path | str) -> list[Path]:
    """All files in a folder and the folders in it, sorted; names that begin with a dot left out.

    Raises:
        EconError: the folder does not exist or is not a folder.
        PermissionError: some folder may not be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise EconError("a folder of images", f"{folder}, which {what}")
    found = []
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a {KINDS}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, turned as its camera says, on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
    return ImageOps.exif_transpose(image).convert("RGBA")
