"""Names of experts: what they may be, and how people say which expert they mean.

Names come from files that others made (class names, files of sprites), and go to terminals,
pictures, pages and layered files. So a name is one line of printable characters; it never chooses
a file or a folder.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from econ_pyro import arguments
from econ_pyro.errors import EconError

LONGEST = 100
"""Characters of the longest name."""
_MOST_LISTED = 20


def shown(text: str, most: int = LONGEST) -> str:
    r"""A text on one line, of printable characters and of bounded length.

    What a terminal would act upon, or nobody can see, is written as an escape: ``\x1b``.
    """
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def clean(text: str) -> str:
    """A name out of any text, such as a file's name; what is a name already stays as it is."""
    return shown(_plain(text)[:LONGEST])[:LONGEST].strip() or "unnamed"


def check_names(names: Sequence[Any], where: str) -> None:
    """Check that experts can have these names.

    Args:
        names: of experts.
        where: name of the place, for the error message.

    Raises:
        EconError: one is no line of printable characters, or two are alike but for spaces.
    """
    seen = set[str]()
    for name in names:
        right = isinstance(name, str) and name.isprintable() and name == name.strip()
        if not right or _plain(name) != clean(name):
            got = shown(repr(name)) if isinstance(name, str) else f"a {type(name).__name__}"
            raise EconError(
                f"names of 1 to {LONGEST} printable characters in {where}",
                got,
                "write another name there",
            )
        if _plain(name) in seen:
            raise EconError(f"{len(names)} different names in {where}", f"{name!r} twice")
        seen.add(_plain(name))


def listed(names: Sequence[str]) -> str:
    """Names for a message."""
    more = ", ..." if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def find(names: Sequence[str], wanted: Sequence[int | str]) -> list[int]:
    """Indices of experts.

    A text is a name first, and an index only if no expert is called so; an integer is an index.

    Args:
        names: of all experts.
        wanted: the experts, each by name or index.

    Raises:
        EconError: there is none of that name or index.
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise EconError("a list of experts", shown(repr(wanted)), "put it into brackets")
    return [_find_one(names, one) for one in wanted]


def read_scene(names: Sequence[str], text: str) -> list[int]:
    """Indices of the experts that a line names, as in ``background red ball circle``.

    A name of several words is found as it stands. Where words can be read in several ways, the
    longest name counts, from the left.

    Args:
        names: of all experts.
        text: names or indices of experts with spaces between.

    Raises:
        EconError: the line has words that are no expert's, or none.
    """
    words = text.split()
    if not words:
        raise EconError("at least one expert of the scene", repr(shown(text)))
    longest = max(len(name.split()) for name in names)
    # from each word on: the experts named by all that follows; None if there is no way
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
    """The first word that no reading of what is before it can go past."""
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
    """Index of an expert; None for a text that is neither its name nor an index of any."""
    if isinstance(wanted, str):
        name, plain = _plain(wanted), [_plain(name) for name in names]
        if name in plain:
            return plain.index(name)
        if not (_is_number(name) and len(name) < 10):
            return None
        wanted = int(name)
    wanted = arguments.whole("the index of an expert", wanted, least=None)
    return wanted if 0 <= wanted < len(names) else None


def _plain(text: str) -> str:
    """What of a name counts: keyboards and file systems differ in how they put accents."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _refuse(names: Sequence[str], wanted: int | str) -> NoReturn:
    if not isinstance(wanted, str) or _is_number(wanted.removeprefix("-")):
        got = shown(str(wanted) if isinstance(wanted, str) else repr(wanted), 20)
        raise EconError(f"an expert from 0 to {len(names) - 1}", got, f"they are {listed(names)}")
    raise EconError(
        f"experts from {listed(names)}",
        repr(shown(wanted)),
        "evaluate.py names the experts of a run; an index works too",
    )
