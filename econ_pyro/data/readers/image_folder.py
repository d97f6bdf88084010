"""Image and video files as a source."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from econ_pyro.data.base import DEFAULT_LIMIT, SourceInfo
from econ_pyro.data.images import warn_skipped
from econ_pyro.data.readers.disk_array import DiskArray
from econ_pyro.data.readers.video import frames
from econ_pyro.data.resize import Fit, Resample
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import walk

_log = logging.getLogger(__name__)


class ImageFolder:
    """Images and video frames of a file, or of a folder and its subfolders.

    Files are decoded once; the resized pixels are kept in a temporary file.

    Args:
        path: the folder or file. Names that begin with a dot are ignored.
        size: height and width of the resized images in pixels.
        fit: ``crop`` scales the shorter side to size and keeps the centre, ``resize`` stretches.
        strict: raise on the first unreadable file instead of skipping it with a warning.
        limit: maximum number of images, in the order of the names.
        resample: how images are resized.

    Raises:
        EconError: the folder does not exist or has no readable images.
    """

    skipped: list[EconError]
    """The error of each skipped file."""

    def __init__(
        self,
        path: Path | str,
        size: int,
        fit: Fit = "crop",
        strict: bool = False,
        limit: int = DEFAULT_LIMIT,
        resample: Resample = "auto",
    ) -> None:
        self.size, self._resample = size, resample
        self.classes: tuple[str, ...] = ()
        single = Path(path).is_file()
        files, irregular = ([Path(path)], {}) if single else walk(path, "images")
        if strict and irregular:
            raise next(iter(irregular.values()))
        self.paths: list[Path] = []
        self.skipped = list(irregular.values())
        self._frames, self._limit = DiskArray(), limit
        self._original_sizes: Counter[tuple[int, int]] = Counter()
        self._modes: Counter[str] = Counter()
        self._truncated = self._sequential = False
        for file in files:
            try:
                self._read(file, fit)
            except EconError as error:
                if strict or single:
                    raise
                self.skipped.append(error)
            if self._truncated:
                break
        self._pixels = self._frames.array()
        total = len(files) + len(irregular)
        self._warn(total)
        if not self.paths:
            raise EconError(
                "images or videos",
                f"{path}, with none among its {total} files" if total else f"{path}, empty",
                "name the folder that holds the images",
            )

    def _read(self, file: Path, fit: Fit) -> None:
        limit = self._limit - len(self.paths) + 1  # one more than needed, to detect truncation
        for number, frame in enumerate(frames(file, self.size, fit, limit, self._resample)):
            if len(self.paths) == self._limit:
                self._truncated = True
                return
            self._frames.append(frame.pixels)
            self.paths.append(file)
            self._original_sizes[frame.original_size] += 1
            self._modes[frame.mode] += 1
            self._sequential |= number > 0

    def _warn(self, files: int) -> None:
        if not self.skipped:
            return
        for skipped in self.skipped:
            _log.info("skipped: %s", skipped)
        warn_skipped(self.skipped, files, "readable images or videos", 4)

    @property
    def info(self) -> SourceInfo:
        """Description of the original images."""
        files = len(set(self.paths))
        kind = f"{files} image and video files" if self._sequential else f"{files} image files"
        if len(self.paths) > 1 and files == 1:
            kind = f"a video or animation, {self.paths[0].name}"
        return SourceInfo(
            kind=kind,
            storage="pixels at the model's size, in a temporary file",
            original_sizes=self._original_sizes,
            modes=self._modes,
            sequential=self._sequential,
            truncated=self._truncated,
            skipped=tuple(error.got for error in self.skipped),
        )

    def __len__(self) -> int:
        return len(self._pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        nchw = torch.from_numpy(self._pixels[indices.numpy()]).permute(0, 3, 1, 2)
        return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def scenes(self, indices: Tensor) -> None:
        """None: there is no ground truth."""
        return None
