"""The exception for user errors, checks that raise it, and values formatted for its messages."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from reprlib import Repr
from typing import Any

_MAX_VALUE_LENGTH = 60  # characters of a value in a message


class EconError(Exception):
    """An error in the input or in the environment that the user can correct.

    The library raises it; entry points print it on one line and exit with status 2. Any other
    exception that escapes is a bug and keeps its traceback.

    Args:
        expected: what would have been correct, as a noun phrase.
        got: what was given.
        hint: what to try; may be empty.
    """

    def __init__(self, expected: str, got: str, hint: str = "") -> None:
        self.expected, self.got, self.hint = expected, got, hint
        tail = f": {hint}" if hint else ""
        super().__init__(printable(f"expected {expected}, got {got}{tail}"))


def command(name: str) -> str:
    """The command that runs a script, in the way in which this process was started.

    Args:
        name: subcommand of ``econ-pyro``, such as ``train``.

    Returns:
        ``econ-pyro train`` if the process was started by ``econ-pyro``, else
        ``python scripts/svi_train.py``.
    """
    if sys.argv[0].startswith("econ-pyro "):
        return f"econ-pyro {name}"
    script = {"train": "svi_train"}.get(name, name.replace("-", "_"))
    return f"python scripts/{script}.py"


def printable(text: str, max_length: int | None = None) -> str:
    r"""Text on one line; non-printable characters become escapes such as ``\x1b``.

    Args:
        text: any text, such as a file name.
        max_length: truncate longer text before escaping; None: no limit.
    """
    if max_length is not None and len(text) > max_length:
        text = f"{text[: max_length - 3]}..."
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def did_you_mean(word: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """A hint that names the closest of the known words.

    Args:
        word: what was given.
        known: what would have been correct.
        similarity: of the two at least, as ``difflib`` has it.

    Returns:
        ``did you mean quick?``, or nothing if no word is close.
    """
    close = difflib.get_close_matches(word, known, 1, similarity)
    return f"did you mean {close[0]}?" if close else ""


def describe(value: Any) -> str:
    """``repr`` of a value for an error message, on one line and truncated to 60 characters."""
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        text = "an integer of thousands of digits"
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."


class _Repr(Repr):
    """Bounds the depth and length of containers; :func:`describe` truncates everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 60
        self.maxlong = self.maxother = 10_000

    def repr_str(self, value: str, level: int) -> str:
        return repr(value[: 2 * _MAX_VALUE_LENGTH])


_REPR = _Repr()


def check_positive(option: str, value: int) -> None:
    """Check a count.

    Raises:
        EconError: the value is below 1.
    """
    if value < 1:
        raise EconError(f"at least 1 for {option}", str(value))


def check_range(option: str, value: int, low: int, high: int) -> None:
    """Check an integer.

    Raises:
        EconError: the value is outside ``low`` to ``high``.
    """
    if not low <= value <= high:
        raise EconError(f"{option} from {low:,} to {high:,}", f"{value:,}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Check a choice.

    Raises:
        EconError: the value is not one of ``choices``.
    """
    if value not in (known := list(choices)):
        raise EconError(f"{name} among {', '.join(known)}", repr(value))
