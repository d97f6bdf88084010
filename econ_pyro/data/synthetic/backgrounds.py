"""Pictures as backgrounds: a folder of PNG, JPEG, GIF or WebP files.

Scenes show a window of a picture at a random place. Along an axis on which the picture is not
larger than the scene, it is repeated from a random pixel on, so that textures tile.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from econ_pyro.data import counter_rng
from econ_pyro.data.images import FORMAT_NAMES, SUFFIXES, decode
from econ_pyro.errors import EconError
from econ_pyro.files.untrusted import walk

_MAX_PIXELS = 1 << 26  # of all pictures, which are held in memory with 3 bytes each


class Backgrounds:
    """Pictures, in memory.

    Args:
        folder: folder of the pictures, and of subfolders with more.

    Raises:
        EconError: the folder does not exist or has no pictures, a file is not a picture, or the
            pictures are too large.
    """

    def __init__(self, folder: Path | str) -> None:
        files, irregular = walk(folder, "pictures")
        for path, error in irregular.items():
            if path.suffix.lower() in SUFFIXES:
                raise error
        pictures, total = [], 0
        for path in files:
            if path.suffix.lower() in SUFFIXES:
                pictures.append(decode(path))
                total += pictures[-1].size // 3
            if total > _MAX_PIXELS:
                expected = f"backgrounds of at most {_MAX_PIXELS:,} pixels in all"
                raise EconError(expected, f"more in {folder}", "scale them down or remove some")
        if not pictures:
            raise EconError(f"{FORMAT_NAMES} files", f"{folder}, without any")
        shape = torch.tensor([picture.shape[:2] for picture in pictures])  # (P, 2): rows, columns
        pixels = shape.prod(1)
        self._table = torch.cat([shape, (pixels.cumsum(0) - pixels)[:, None]], 1)
        flat = [picture.reshape(-1, 3) for picture in pictures]
        self._means = torch.tensor([np.rint(each.mean(0)).tolist() for each in flat]).long()
        self._pixels = torch.from_numpy(np.concatenate(flat))

    def choose(self, u: Tensor, size: int) -> Tensor:
        """Choose windows of pictures.

        Args:
            u: 32 random bits, :math:`(B, 3)` int64.
            size: height and width of the scenes.

        Returns:
            Number of each picture, first row and first column, :math:`(B, 3)` int64.
        """
        number = counter_rng.below(u[:, 0], len(self._table))
        shape = self._table.to(u.device)[number, :2]
        places = torch.where(shape > size, shape - size + 1, shape)
        return torch.cat([number[:, None], counter_rng.below(u[:, 1:], places)], 1)

    def means(self, picture: Tensor) -> Tensor:
        """Mean colours of chosen pictures, :math:`(B, 3)` int64."""
        return self._means.to(picture.device)[picture[:, 0]]

    def draw(self, picture: Tensor, size: int) -> Tensor:
        """Chosen windows, :math:`(B, 3, H, W)` int32."""
        number, row, column = picture.unbind(1)
        rows, columns, first = self._table.to(picture.device)[number].unbind(1)
        axis = torch.arange(size, device=picture.device)
        y = (row[:, None] + axis) % rows[:, None]
        x = (column[:, None] + axis) % columns[:, None]
        index = first[:, None, None] + y[:, :, None] * columns[:, None, None] + x[:, None]
        return self._pixels.to(picture.device)[index].permute(0, 3, 1, 2).int()
