"""Errors that a user can act on: what was expected, what came, what to try."""

from __future__ import annotations

from collections.abc import Iterable


class EconError(Exception):
    """A mistake in the input, or in the world outside, that the user can mend.

    Entry points print it as one line and exit with status 2; the library raises it. Anything
    else that escapes is a bug of ours and keeps its traceback.

    Args:
        expected: what would have been right, as a noun phrase.
        got: what came instead.
        hint: what to try; empty if there is nothing sensible to say.
    """

    def __init__(self, expected: str, got: str, hint: str = "") -> None:
        self.expected, self.got, self.hint = expected, got, hint
        tail = f": {hint}" if hint else ""
        super().__init__(printable(f"expected {expected}, got {got}{tail}"))


def printable(text: str) -> str:
    """A text of one line that any terminal can show: names of files may hold anything."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def check_positive(option: str, value: int) -> None:
    """Check a count that a user gave.

    Raises:
        EconError: it is not at least 1.
    """
    if value < 1:
        raise EconError(f"at least 1 for {option}", str(value))


def check_range(option: str, value: int, low: int, high: int) -> None:
    """Check a whole number that a user gave.

    Raises:
        EconError: it is not from ``low`` to ``high``.
    """
    if not low <= value <= high:
        raise EconError(f"{option} from {low:,} to {high:,}", f"{value:,}")


def check_choice(what: str, value: str, known: Iterable[str]) -> None:
    """Check a name that a user gave.

    Raises:
        EconError: it is not a known one.
    """
    if value not in (names := list(known)):
        raise EconError(f"{what} among {', '.join(names)}", repr(value))
