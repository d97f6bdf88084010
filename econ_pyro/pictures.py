"""Folders of pictures and videos, and single videos, as a source of images."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from econ_pyro.about import LIMIT, About
from econ_pyro.errors import EconError
from econ_pyro.frames import frames
from econ_pyro.images import Fit, list_files
from econ_pyro.spool import Spool

_log = logging.getLogger(__name__)


class ImageFolder:
    """The pictures and the frames of videos in a folder and the folders in it, or in one file.

    They are decoded once; what is kept, in a temporary file, are the pixels at the model's size.

    Args:
        path: the folder, or a file. Files whose names begin with a dot are not looked at.
        size: height and width of the images in pixels.
        fit: ``crop`` scales the shorter side to size and keeps the middle, ``resize`` stretches.
        strict: raise on the first file that is not a readable picture, instead of skipping it
            with a warning.
        limit: most images to take, in the order of the names.

    Raises:
        EconError: there is no such folder, or no readable picture in it.
    """

    skipped: list[EconError]
    """What was wrong with each file that is not among the images."""

    def __init__(
        self,
        path: Path | str,
        size: int,
        fit: Fit = "crop",
        strict: bool = False,
        limit: int = LIMIT,
    ) -> None:
        self.size = size
        self.classes: tuple[str, ...] = ()
        single = Path(path).is_file()
        files = [Path(path)] if single else list_files(path)
        self.paths: list[Path] = []
        self.skipped = []
        self._spool, self._limit = Spool(), limit
        self._native: Counter[tuple[int, int]] = Counter()
        self._modes: Counter[str] = Counter()
        self._more = self._moving = False
        for file in files:
            try:
                self._take(file, fit)
            except EconError as error:
                if strict or single:
                    raise
                self.skipped.append(error)
            if self._more:
                break
        self._pixels = self._spool.array()
        self._warn(len(files))
        if not self.paths:
            raise EconError(
                "images or videos",
                f"{path}, with none among its {len(files)} files" if files else f"{path}, empty",
                "name the folder that holds the images",
            )

    def _take(self, file: Path, fit: Fit) -> None:
        for number, frame in enumerate(frames(file, self.size, fit)):
            if len(self.paths) == self._limit:
                self._more = True
                return
            self._spool.append(frame.pixels)
            self.paths.append(file)
            self._native[frame.native] += 1
            self._modes[frame.mode] += 1
            self._moving |= number > 0

    def _warn(self, files: int) -> None:
        if not self.skipped:
            return
        for skipped in self.skipped:
            _log.info("skipped: %s", skipped)
        shown = "; ".join(skipped.got for skipped in self.skipped[:3])
        more = f"; and {len(self.skipped) - 3} more" if len(self.skipped) > 3 else ""
        warnings.warn(
            f"skipped {len(self.skipped)} of {files} files that are not readable images or "
            f"videos: {shown}{more}",
            stacklevel=3,
        )

    @property
    def about(self) -> About:
        """Where the images come from."""
        files = len(set(self.paths))
        kind = f"{files} image and video files" if self._moving else f"{files} image files"
        if len(self.paths) > 1 and files == 1:
            kind = f"a video or animation, {self.paths[0].name}"
        return About(
            kind=kind,
            kept="pixels at the model's size, in a temporary file",
            native=self._native,
            modes=self._modes,
            sequential=self._moving,
            more=self._more,
            skipped=tuple(error.got for error in self.skipped),
        )

    def __len__(self) -> int:
        return len(self._pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Images, :math:`(B, 3, H, W)` float32 in [0, 1]."""
        nchw = torch.from_numpy(self._pixels[indices.numpy()]).permute(0, 3, 1, 2)
        return nchw.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def scenes(self, indices: Tensor) -> None:
        """There is no ground truth."""
        return None
