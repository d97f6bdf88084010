"""Pictures from files and from users: RGB of one size, or an error that names what is wrong.

The turn that a camera wrote into the file (EXIF) is applied. Transparent parts become white, the
page that such pictures are usually drawn for. 16 bits a channel become 8. Of an animation the
first picture is taken.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from econ_pyro.errors import EconError

SUFFIXES = (".png", ".jpg", ".jpeg")
Fit = Literal["crop", "resize"]
"""How a picture becomes square: crop keeps its middle, resize stretches it."""


def read_image(path: Path | str, size: int | None = None, fit: Fit = "crop") -> Tensor:
    """Read one picture.

    Args:
        path: a PNG or JPEG file.
        size: height and width of the result in pixels; the picture's own if not given.
        fit: how a picture becomes square.

    Returns:
        :math:`(3, H, W)` float32 in [0, 1].

    Raises:
        EconError: there is no such file, or it cannot be read as a picture.
    """
    hwc = torch.from_numpy(decode(path, size, fit))
    return hwc.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255


def check_images(images: Tensor, size: int) -> None:
    """Check what a user gives as images.

    Raises:
        EconError: another shape, type or range than ``(B, 3, size, size)`` float in [0, 1].
    """
    expected = f"images (B, 3, {size}, {size}), float in [0, 1]"
    if not isinstance(images, Tensor):
        raise EconError(expected, type(images).__name__, "use torch.as_tensor")
    got = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
    if images.ndim != 4 or images.shape[1:] != (3, size, size):
        hint = "add the batch axis with images[None]" if images.ndim == 3 else "resize them"
        raise EconError(expected, got, hint)
    if not images.is_floating_point():
        raise EconError(expected, got, "divide by 255")
    low, high = (images.min().item(), images.max().item()) if len(images) else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise EconError(expected, f"values from {low:g} to {high:g}", "divide by 255")


def decode(path: Path | str, size: int | None = None, fit: Fit = "crop") -> np.ndarray:
    """The same as :func:`read_image` but ``(H, W, 3)`` uint8."""
    path = Path(path)
    if not path.exists():
        raise EconError("an image file", f"{path}, which does not exist")
    if not path.is_file():
        raise EconError("an image file", f"{path}, which is not a file")
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to stop, a picture that fills the memory is.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return np.array(_fit(_to_rgb(image), size, fit))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise EconError(
            f"an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels",
            f"{path}, which is larger",
            "scale it down first",
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble on
        raise EconError("a readable PNG or JPEG image", f"{path} ({_reason(error)})") from error


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """Image files by name: each path that is a file, and the PNG and JPEG files of each folder.

    Raises:
        EconError: a path does not exist, or a folder has no file called .png, .jpg or .jpeg.
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
        return "not a PNG or JPEG"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _fit(image: Image.Image, size: int | None, fit: Fit) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return image.resize((size, size), Image.Resampling.BILINEAR)
