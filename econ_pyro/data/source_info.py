"""What a source of images says of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

LIMIT = 100_000
"""Images taken of a file or a folder, if nothing else is said."""


@dataclass(frozen=True)
class About:
    """Where images come from, before they were brought to the model's size."""

    kind: str
    """What the file or the folder is, for people."""
    kept: str
    """What of it is kept, and where."""
    native: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of images by width and height in pixels."""
    modes: Counter[str] = field(default_factory=Counter)
    """Number of images by colours: L (grey), RGB, RGBA, ..."""
    truth: tuple[str, ...] = ()
    """Ground truth that there is."""
    sequential: bool = False
    """Whether neighbours are alike, as frames of a video are."""
    more: bool = False
    """Whether the limit left images out."""
    skipped: tuple[str, ...] = ()
    """What was wrong with each file that is not among the images."""
