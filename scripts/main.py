"""The console command ``econ-pyro``, with one subcommand per script: ``econ-pyro train quick``.

``econ-pyro train`` is equivalent to ``python scripts/svi_train.py``. Only the script of the
subcommand is imported, so that ``econ-pyro --help`` is fast.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from econ_pyro import __version__
from econ_pyro.errors import EconError, did_you_mean

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
    "ablate": "ablate",
    "table1": "table1",
    "search": "search",
    "benchmark": "benchmark",
}
"""Subcommands, and the modules of :mod:`econ_pyro.scripts` that they run."""
ALIASES = {"ui": "composer"}


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: run the script of the subcommand.

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
    except EconError as error:  # as in cli.run, without importing torch, which takes seconds
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"econ-pyro {ALIASES.get(name, name)}", *rest]
    from econ_pyro import cli

    cli.run(importlib.import_module(f"econ_pyro.scripts.{module}").main)


def find(name: str) -> str:
    """Find the module of :mod:`econ_pyro.scripts` that a subcommand runs.

    Raises:
        EconError: there is no such subcommand.
    """
    command = ALIASES.get(name, name)
    if command not in COMMANDS:
        hint = did_you_mean(name, [*COMMANDS, *ALIASES]) or "econ-pyro --help lists them"
        got = repr(name if len(name) <= 100 else f"{name[:97]}...")
        raise EconError("a command of econ-pyro", got, hint)
    return COMMANDS[command]


def overview() -> str:
    """Text of ``econ-pyro --help``, with a summary of each subcommand."""
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
        "econ-pyro COMMAND --help lists the options of a command; --version prints the version."
    )


def summary(module: str) -> str:
    """First sentence of a script's docstring, without the example; does not import the script."""
    source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
    return " ".join(first.split()).split(": ``")[0].split("; ")[0].rstrip(".").split(". ")[0]


if __name__ == "__main__":
    main()
