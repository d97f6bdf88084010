"""The console command ``econ-pyro``, with one subcommand per script: ``econ-pyro train quick``.

``econ-pyro train`` does what ``python scripts/svi_train.py`` does, wherever the package is
installed. Only the script that is asked for is imported, so ``econ-pyro --help`` is quick.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from econ_pyro import __version__
from econ_pyro.errors import EconError

COMMANDS = {
    "train": "svi_train",
    "decompose": "decompose",
    "sample": "sample",
    "evaluate": "evaluate",
    "composer": "composer",
    "inspect-data": "inspect_data",
    "make-dataset": "make_dataset",
    "make-sprites": "make_sprites",
    "export-onnx": "export_onnx",
    "publish": "publish",
    "figures": "figures",
    "seeds": "seeds",
    "benchmark": "benchmark",
}
"""Subcommands, and the modules of :mod:`econ_pyro.scripts` that they run."""
ALIASES = {"ui": "composer"}


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: run the script that the first argument names.

    Args:
        args: command line; that of the process if not given.
    """
    name, *rest = list(sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return
    if name in ("-V", "--version"):
        print(f"econ-pyro {__version__}")
        return
    try:
        module = find(name)
    except EconError as error:  # as cli.run does, without the seconds of importing torch
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"econ-pyro {ALIASES.get(name, name)}", *rest]
    from econ_pyro import cli

    cli.run(importlib.import_module(f"econ_pyro.scripts.{module}").main)


def find(name: str) -> str:
    """The module of :mod:`econ_pyro.scripts` that a subcommand runs.

    Raises:
        EconError: there is no such subcommand.
    """
    command = ALIASES.get(name, name)
    if command not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], 1)
        hint = f"did you mean {close[0]}?" if close else "econ-pyro --help lists them"
        got = repr(name if len(name) <= 100 else f"{name[:97]}...")
        raise EconError("a command of econ-pyro", got, hint)
    return COMMANDS[command]


def overview() -> str:
    """What ``econ-pyro --help`` prints: each subcommand and what it does."""
    labels = {name: [name] for name in COMMANDS}
    for alias, name in ALIASES.items():
        labels[name].append(alias)
    width = max(len(", ".join(names)) for names in labels.values())
    listed = "\n".join(
        f"  {', '.join(labels[name]):{width}}  {summary(module)}"
        for name, module in COMMANDS.items()
    )
    return (
        "usage: econ-pyro COMMAND ...\n\n"
        "Layered generative scene models by competition of experts (ECON).\n\n"
        f"commands:\n{listed}\n\n"
        "econ-pyro COMMAND --help has the options of a command; --version prints the version."
    )


def summary(module: str) -> str:
    """What a script does: the first sentence of its docstring, without the example.

    The file is parsed, not imported.
    """
    source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
    return " ".join(first.split()).split(": ``")[0].split("; ")[0].rstrip(".").split(". ")[0]


if __name__ == "__main__":
    main()
