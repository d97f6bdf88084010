"""Names of experts: validation, and lookup by name or index.

Names come from untrusted files (class names, sprite files) and are shown in terminals, images,
web pages and layered files. A name is therefore one line of printable characters, and is never
used as a path.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from econ_pyro import arguments
from econ_pyro.errors import EconError, command, describe, printable

MAX_NAME_LENGTH = 100
"""Maximum length of a name in characters."""
_MAX_LISTED = 20


def clean_name(text: str) -> str:
    """Make any text, such as a file name, a valid name; valid names are unchanged."""
    return printable(_normalised(text)[:MAX_NAME_LENGTH])[:MAX_NAME_LENGTH].strip() or "unnamed"


def check_names(names: Sequence[Any], where: str) -> None:
    """Check names of experts.

    Args:
        names: the names.
        where: where they come from, for the error message.

    Raises:
        EconError: a name is not one line of printable characters, or two names differ at most in
            spaces.
    """
    seen = set[str]()
    for name in names:
        right = isinstance(name, str) and name.isprintable() and name == name.strip()
        if not right or _normalised(name) != clean_name(name):
            got = describe(name) if isinstance(name, str) else f"a {type(name).__name__}"
            raise EconError(
                f"names of 1 to {MAX_NAME_LENGTH} printable characters in {where}",
                got,
                "choose another name",
            )
        if _normalised(name) in seen:
            raise EconError(f"{len(names)} different names in {where}", f"{name!r} twice")
        seen.add(_normalised(name))


def join_names(names: Sequence[str]) -> str:
    """Join the first names for a message."""
    more = ", ..." if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def find_experts(names: Sequence[str], wanted: Sequence[int | str]) -> list[int]:
    """Look up experts by name or index.

    A string is looked up as a name first, then as an index.

    Args:
        names: names of all experts.
        wanted: names or indices.

    Returns:
        The indices.

    Raises:
        EconError: there is no expert with that name or index.
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise EconError("a list of experts", describe(wanted), "put it into brackets")
    return [_find_one(names, one) for one in wanted]


def parse_scene(names: Sequence[str], text: str) -> list[int]:
    """Parse a line of expert names, such as ``background red ball circle``.

    Names may consist of several words. If the line is ambiguous, the longest match wins, from
    left to right.

    Args:
        names: names of all experts.
        text: names or indices, separated by spaces.

    Returns:
        The indices.

    Raises:
        EconError: the line is empty or contains an unknown name.
    """
    words = text.split()
    if not words:
        raise EconError("at least one expert of the scene", describe(text))
    longest = max(len(name.split()) for name in names)
    # rest[i]: the experts named by words i, i + 1, ...; None if these words cannot be parsed
    rest: list[list[int] | None] = [None] * len(words) + [[]]
    for i in reversed(range(len(words))):
        for n in range(min(longest, len(words) - i), 0, -1):
            after = rest[i + n]
            own = _index(names, " ".join(words[i : i + n]))
            if own is not None and after is not None:
                rest[i] = [own, *after]
                break
    if rest[0] is None:
        _refuse(names, _first_unknown(names, words, longest))
    return rest[0]


def _first_unknown(names: Sequence[str], words: Sequence[str], longest: int) -> str:
    """The first word that no parse of the preceding words continues past."""
    reached = {0}
    for i in range(len(words)):
        if i in reached:
            for n in range(1, min(longest, len(words) - i) + 1):
                if _index(names, " ".join(words[i : i + n])) is not None:
                    reached.add(i + n)
    return words[min(max(reached), len(words) - 1)]


def _find_one(names: Sequence[str], wanted: int | str) -> int:
    index = _index(names, wanted)
    if index is None:
        _refuse(names, wanted)
    return index


def _index(names: Sequence[str], wanted: int | str) -> int | None:
    """Index of an expert; None if the string is neither a name nor an index."""
    if isinstance(wanted, str):
        name, known = _normalised(wanted), [_normalised(name) for name in names]
        if name in known:
            return known.index(name)
        if not (_is_number(name) and len(name) < 10):
            return None
        wanted = int(name)
    wanted = arguments.as_int("the index of an expert", wanted, minimum=None)
    return wanted if 0 <= wanted < len(names) else None


def _normalised(text: str) -> str:
    """Normalise spaces and accents; keyboards and file systems encode accents differently."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _refuse(names: Sequence[str], wanted: int | str) -> NoReturn:
    if not isinstance(wanted, str) or _is_number(wanted.removeprefix("-")):
        known = join_names(names)
        got = printable(str(wanted) if isinstance(wanted, str) else repr(wanted), 20)
        raise EconError(f"an expert from 0 to {len(names) - 1}", got, f"they are {known}")
    raise EconError(
        f"experts from {join_names(names)}",
        describe(wanted),
        f"{command('evaluate')} names the experts of a run; an index works too",
    )
