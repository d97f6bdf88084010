"""Safe, distinct names of output folders from the names of input files.

The stem of a file name may be ``..``, differ from another one only in case, be a device name on
Windows, or not be valid text. Names that are valid on every system stay unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePath

NAMELESS = "image"
"""Name of a folder if no character of the file name is usable."""
MAX_LENGTH = 120  # bytes; file systems allow 255, some encrypted ones 143
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]|conin\$|conout\$)\s*(\.|$)", re.I)
# lone surrogates come from invalid bytes; the last line has bidirectional control characters
_UNSAFE = re.compile(
    '[\x00-\x1f\x7f-\x9f<>:"/\\\\|?*\u2028\u2029\ud800-\udfff'
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def folder_names(paths: Sequence[PurePath | str]) -> list[str]:
    """Distinct folder names from file stems, made safe and numbered where they collide.

    The result depends on the paths alone. Stems that are safe take precedence: of ``a.png``,
    ``a.jpg`` and ``a-2.png``, only ``a.jpg`` is renamed, to ``a-3``.

    Args:
        paths: paths of the files; duplicates count twice.

    Returns:
        One name per path. No two names differ only in case or Unicode normalisation, which some
        file systems ignore.
    """
    stems = [PurePath(path).stem for path in paths]
    safe = [safe_name(stem) for stem in stems]
    names: list[str | None] = [None] * len(stems)
    taken: set[str] = set()
    for i, (stem, name) in enumerate(zip(stems, safe, strict=True)):
        if stem == name and (key := _key(name)) not in taken:
            names[i] = name
            taken.add(key)
    next_number: dict[str, int] = {}  # avoids quadratic time for many equal names
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
    """Make text a valid name of a file or folder on every system.

    Invalid characters become ``_``. Leading and trailing dots and spaces are removed: ``..`` is
    the parent folder, and Windows drops trailing ones.
    """
    name = _trimmed(_UNSAFE.sub("_", text))
    if _DEVICES.match(name):
        name = f"_{name}"
    name = _trimmed(name.encode()[:MAX_LENGTH].decode(errors="ignore"))  # keep whole characters
    return name if _key(name) else NAMELESS


def _trimmed(name: str) -> str:
    return re.sub(r"^[\s.]+|[\s.]+$", "", name)


def _key(name: str) -> str:
    """Normalised name, equal for names that some file systems identify."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")
