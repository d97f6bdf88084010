"""Folders of pictures and videos, and single videos, as a source of images."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from econ_pyro.data.images import Fit, warn_of_skipped
from econ_pyro.data.readers.disk_array import Spool
from econ_pyro.data.readers.video import frames
from econ_pyro.data.source_info import LIMIT, About
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import walk

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
        files, odd = ([Path(path)], {}) if single else walk(path, "images")
        if strict and odd:
            raise next(iter(odd.values()))
        self.paths: list[Path] = []
        self.skipped = list(odd.values())
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
        there = len(files) + len(odd)
        self._warn(there)
        if not self.paths:
            raise EconError(
                "images or videos",
                f"{path}, with none among its {there} files" if there else f"{path}, empty",
                "name the folder that holds the images",
            )

    def _take(self, file: Path, fit: Fit) -> None:
        room = self._limit - len(self.paths) + 1  # one more, to know that there are more
        for number, frame in enumerate(frames(file, self.size, fit, room)):
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
        warn_of_skipped(self.skipped, files, "readable images or videos", 4)

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
