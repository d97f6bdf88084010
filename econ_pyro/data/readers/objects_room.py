"""objects_room: the number of background indices in a mask.

The documentation of the dataset names four: sky, floor and the two halves of the wall. But a scene
that shows only one half of the wall has three, and its first object has index 3. The files do not
record this (``visibility`` only says which indices occur), so it is inferred from the masks. A
half of the wall

- is a band below the sky and above the floor: the floor is never above it, the sky never below,
- continues the other half, with its upper and lower edge at the same height,
- has the other half on one side only, never above or below,
- extends to an edge of the image on the other side, unless it is occluded.

A region with index 3 that violates one of these rules is an object. Masks are noisy, so an edge
counts only if it is several pixels long. object-centric-library corrects its masks by similar
rules.
"""

from __future__ import annotations

import numpy as np

MAX_BACKGROUND = 4
"""Maximum number of background indices: sky 0, floor 1, wall 2, and possibly 3."""
_SKY, _FLOOR, _WALL, _CANDIDATE = range(4)
# index counts of the published datasets; in scenes that use all indices, four are background
_FULL = (7, 10)


def background_parts(index_maps: np.ndarray, max_indices: int | None = None) -> np.ndarray:
    """Number of background indices, from 0.

    Args:
        index_maps: index of the visible entity, ``(B, H, W)`` integers, at the original size.
        max_indices: maximum number of indices per scene, if known.

    Returns:
        ``(B,)`` int64, 3 or 4.
    """
    full = max_indices if max_indices in _FULL else None
    parts = [MAX_BACKGROUND - _is_object(scene, full) for scene in index_maps]
    return np.array(parts, np.int64)


def _is_object(scene: np.ndarray, full: int | None) -> bool:
    """Whether index 3 of a scene is an object."""
    candidate = scene == _CANDIDATE
    if not candidate.any() or not (scene == _WALL).any():
        return False
    if full is not None and scene.max() >= full - 1:
        return False  # no dataset has that many objects
    min_length = max(2, round(3 * min(scene.shape) / 64))  # 3 of 64 pixels
    above, below = (_neighbours(scene.T, after, min_length) for after in (False, True))
    left, right = (_neighbours(scene, after, min_length) for after in (False, True))
    if _WALL in above | below or _FLOOR in above or _SKY in below:
        return True
    if _WALL in left and _WALL in right:
        return True
    open_left, open_right = (bool({_SKY, _FLOOR} & side) for side in (left, right))
    # extends to an edge of the image, or to an object that does
    on_left, on_right = ((scene[candidate.any(1), x] >= _CANDIDATE).any() for x in (0, -1))
    if (open_left and (open_right or not on_right)) or (open_right and not on_left):
        return True
    return _has_step(scene, min_length)


def _neighbours(scene: np.ndarray, after: bool, min_length: int) -> set[int]:
    """Which of sky, floor and wall are horizontally adjacent to the candidate.

    Args:
        scene: index map, ``(H, W)``; transpose it for vertical adjacency.
        after: whether to look to the right of the candidate, instead of to the left.
        min_length: minimum number of rows from the first to the last adjacent pixel.
    """
    here, there = (scene[:, :-1], scene[:, 1:]) if after else (scene[:, 1:], scene[:, :-1])
    found = set()
    for number in (_SKY, _FLOOR, _WALL):
        rows = np.nonzero(((here == _CANDIDATE) & (there == number)).any(1))[0]
        if len(rows) and rows[-1] - rows[0] + 1 >= min_length:
            found.add(number)
    return found


def _has_step(scene: np.ndarray, min_length: int) -> bool:
    """Whether the edges of adjacent candidate and wall are at different heights."""
    for background, first in ((_SKY, True), (_FLOOR, False)):
        columns = scene if first else scene[::-1]
        ends = [_ends(columns, number, background) for number in (_CANDIDATE, _WALL)]
        for one, other in (ends, ends[::-1]):
            both = (one[:-1] >= 0) & (other[1:] >= 0)
            if both.any() and np.abs(one[:-1] - other[1:])[both].min() > min_length:
                return True
    return False


def _ends(columns: np.ndarray, number: int, background: int) -> np.ndarray:
    """Row of each column at which the background changes to an index; -1 if there is none."""
    change = (columns[:-1] == background) & (columns[1:] == number)
    return np.where(change.any(0), change.argmax(0), -1)
