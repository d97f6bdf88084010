"""The interface of image sources, and a description of where their images come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from econ_pyro.data.ground_truth import Truth

DEFAULT_LIMIT = 100_000
"""Default maximum number of images read from a file or a folder."""


class Source(Protocol):
    """Images of one size, accessed by index, with ground truth if it is available."""

    size: int
    """Height and width in pixels."""
    classes: tuple[str, ...]
    """Names of the object classes, by label; empty if labels are unknown."""

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Images at ``indices``: :math:`(B, 3, H, W)` float32 in [0, 1]."""

    def scenes(self, indices: Tensor) -> Truth | None:
        """Images at ``indices`` with ground truth; ``None`` if there is none."""


@dataclass(frozen=True)
class SourceInfo:
    """Description of the original images, before they were resized."""

    kind: str
    """Kind of the file or folder, for reports."""
    storage: str
    """What is kept of the data, and where."""
    original_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of images by width and height in pixels."""
    modes: Counter[str] = field(default_factory=Counter)
    """Number of images by colour mode: L (grey), RGB, RGBA, ..."""
    truth: tuple[str, ...] = ()
    """Available ground truth."""
    sequential: bool = False
    """Whether consecutive images are similar, as in a video."""
    truncated: bool = False
    """Whether the limit excluded images."""
    skipped: tuple[str, ...] = ()
    """Errors of the files that were skipped."""
