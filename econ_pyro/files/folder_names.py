"""Names of output folders, from the names of what is read.

A file's name is somebody else's: its stem can be ``..``, another file's but for case, a device of
Windows, or no text at all. Here it becomes the name of a folder that lies where it should, on any
system, and that no other file has got. Ordinary names stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePath

NAMELESS = "image"
"""What a folder is called where nothing of the file's name is left."""
LONGEST = 120  # bytes of a name: file systems take 255, some encrypted ones 143
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]|conin\$|conout\$)\s*(\.|$)", re.I)
# lone surrogates are what Python makes of bytes that are no text; the last are marks of direction
_UNSAFE = re.compile(
    '[\x00-\x1f\x7f-\x9f<>:"/\\\\|?*\u2028\u2029\ud800-\udfff'
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def folder_names(paths: Sequence[PurePath | str]) -> list[str]:
    """A folder's name for each file: its stem, made safe, and another's of the same with a number.

    Depends on the paths alone. Files whose stems can be kept get them first: of ``a.png``,
    ``a.jpg`` and ``a-2.png``, only ``a.jpg`` has to do with ``a-3``.

    Args:
        paths: of the files; the same one twice counts as two.

    Returns:
        As many names. None is another one's in other case or in another Unicode form, for file
        systems that do not tell these apart.
    """
    stems = [PurePath(path).stem for path in paths]
    safe = [safe_name(stem) for stem in stems]
    names: list[str | None] = [None] * len(stems)
    taken: set[str] = set()
    for i, (stem, name) in enumerate(zip(stems, safe, strict=True)):
        if stem == name and (key := _key(name)) not in taken:
            names[i] = name
            taken.add(key)
    next_number: dict[str, int] = {}  # where a long list of equal names has got to
    for i, name in enumerate(safe):
        if names[i] is not None:
            continue
        candidate, number = name, next_number.get(name, 2)
        while _key(candidate) in taken:
            candidate, number = f"{name}-{number}", number + 1
        next_number[name] = number
        names[i] = candidate
        taken.add(_key(candidate))
    return [name for name in names if name is not None]


def safe_name(text: str) -> str:
    """A text as the name of one file or folder on any system; of an ordinary one, the same.

    What some system does not take becomes ``_``. Dots and spaces go from both ends: ``..`` is a
    folder elsewhere, and Windows takes them off at the end.
    """
    name = _trimmed(_UNSAFE.sub("_", text))
    if _DEVICES.match(name):
        name = f"_{name}"
    name = _trimmed(name.encode()[:LONGEST].decode(errors="ignore"))  # whole characters
    return name if _key(name) else NAMELESS


def _trimmed(name: str) -> str:
    return re.sub(r"^[\s.]+|[\s.]+$", "", name)


def _key(name: str) -> str:
    """What a file system that is not exact takes a name for."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")
