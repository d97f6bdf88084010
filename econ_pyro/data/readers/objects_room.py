"""objects_room: how many of the first numbers in a mask are background.

The set's documentation says four: sky, floor and the two halves of the wall. In fact a scene that
shows one half of the wall has three, and its first object is number 3. Nothing in the files says
so (``visibility`` is merely which numbers occur), but it can be seen. A half of the wall

- is a band below the sky and above the floor: floor is never over it, sky never under it,
- goes on where the other half ends, with its upper and lower edge at the same height,
- has the other half on one side alone, never above or below it,
- reaches an edge of the image on its other side, if nothing stands in front.

Whatever number 3 breaks one of these is an object. Edges count if a few pixels agree, as masks are
rough. object-centric-library mends its masks by similar rules.
"""

from __future__ import annotations

import numpy as np

MOST = 4
"""Most numbers of background: sky 0, floor 1, wall 2, and maybe 3."""
_SKY, _FLOOR, _WALL, _CANDIDATE = range(4)
_FULL = (
    7,
    10,
)  # numbers there can be in the published sets; with all of them, four are background


def background_parts(numbers: np.ndarray, there_can_be: int | None = None) -> np.ndarray:
    """How many numbers, from 0, are background.

    Args:
        numbers: who is seen at each pixel, ``(B, H, W)`` integers, as large as in the file.
        there_can_be: how many numbers a scene can have, if that is known.

    Returns:
        ``(B,)`` int64, 3 or 4.
    """
    full = there_can_be if there_can_be in _FULL else None
    parts = [MOST - _is_object(scene, full) for scene in numbers]
    return np.array(parts, np.int64)


def _is_object(scene: np.ndarray, full: int | None) -> bool:
    candidate = scene == _CANDIDATE
    if not candidate.any() or not (scene == _WALL).any():
        return False
    if full is not None and scene.max() >= full - 1:
        return False  # no set has that many objects
    few = max(2, round(3 * min(scene.shape) / 64))  # of 64 pixels, three
    above, below = (_meets(scene.T, after, few) for after in (False, True))
    left, right = (_meets(scene, after, few) for after in (False, True))
    if _WALL in above | below or _FLOOR in above or _SKY in below:
        return True
    if _WALL in left and _WALL in right:
        return True
    open_left, open_right = (bool({_SKY, _FLOOR} & side) for side in (left, right))
    # at an edge of the image, or up to an object that is
    on_left, on_right = ((scene[candidate.any(1), x] >= _CANDIDATE).any() for x in (0, -1))
    if (open_left and (open_right or not on_right)) or (open_right and not on_left):
        return True
    return _steps(scene, few)


def _meets(scene: np.ndarray, after: bool, few: int) -> set[int]:
    """Which of sky, floor and wall lie directly beside the candidate along a row.

    Args:
        scene: numbers, ``(H, W)``; turned over, columns are rows.
        after: to the right of it, else to the left.
        few: rows that it takes, from the first such row to the last.
    """
    here, there = (scene[:, :-1], scene[:, 1:]) if after else (scene[:, 1:], scene[:, :-1])
    found = set()
    for number in (_SKY, _FLOOR, _WALL):
        rows = np.nonzero(((here == _CANDIDATE) & (there == number)).any(1))[0]
        if len(rows) and rows[-1] - rows[0] + 1 >= few:
            found.add(number)
    return found


def _steps(scene: np.ndarray, few: int) -> bool:
    """Whether candidate and wall, side by side, begin or end at different heights."""
    for background, first in ((_SKY, True), (_FLOOR, False)):
        columns = scene if first else scene[::-1]
        ends = [_ends(columns, number, background) for number in (_CANDIDATE, _WALL)]
        for one, other in (ends, ends[::-1]):
            both = (one[:-1] >= 0) & (other[1:] >= 0)
            if both.any() and np.abs(one[:-1] - other[1:])[both].min() > few:
                return True
    return False


def _ends(columns: np.ndarray, number: int, background: int) -> np.ndarray:
    """Row in which each column goes over from the background to a number; -1 if it does not."""
    change = (columns[:-1] == background) & (columns[1:] == number)
    return np.where(change.any(0), change.argmax(0), -1)
