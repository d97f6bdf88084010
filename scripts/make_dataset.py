"""Write a dataset of synthetic scenes with ground truth (appendix C.1).

Example: python scripts/make_dataset.py data/random --kind random-colours --n 50000 --n-valid 100

The other options default to the usual scenes of the kind: five sprites at most, turned and of
several sizes, in 64x64 pixels with --kind multi-dsprites; three pieces with --kind tetrominoes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from econ_pyro import arguments, cli, errors
from econ_pyro.data.synthetic.dataset import is_dataset, write_dataset
from econ_pyro.errors import EconError
from econ_pyro.files import outputs
from econ_pyro.scene_config import SCENE_SETS, SceneConfig


@dataclass(frozen=True)
class MakeDataset:
    """Write a dataset of synthetic scenes: images, masks, visible regions, classes, colours."""

    out: tyro.conf.Positional[Path]
    """Folder to make."""
    scenes: tyro.conf.OmitArgPrefixes[SceneConfig] = field(default_factory=SceneConfig)
    n: int = 50000
    """Number of training scenes."""
    n_valid: int = 100
    """Number of validation scenes."""
    seed: int = 0
    """Seed of the scenes; training and validation scenes differ under one seed."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the folder if it is a dataset."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point.

    Args:
        args: command line; that of the process if not given.
    """
    given = sys.argv[1:] if args is None else args
    usual = MakeDataset(tyro.MISSING, SCENE_SETS.get(_kind(given), SceneConfig()))
    options = tyro.cli(MakeDataset, args=args, default=usual, description=__doc__)
    errors.check_range("--seed", options.seed, 0, arguments.MAX_SEED)
    out, total = options.out, options.n + options.n_valid
    if options.overwrite and out.is_dir() and any(out.iterdir()) and not is_dataset(out):
        raise EconError(
            "a dataset to replace", f"{out}, another folder with files", "name another"
        )
    with (
        outputs.atomic_folder(out, options.overwrite) as folder,
        cli.progress(total, "scene") as bar,
    ):
        write_dataset(folder, options.scenes, options.seed, options.n, options.n_valid, bar.update)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(
        f"{out}: {options.n} training and {options.n_valid} validation scenes, {size / 1e6:.1f} MB"
    )


def _kind(args: Sequence[str]) -> str:
    """The value of ``--kind`` on a command line; empty if there is none."""
    for i, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if name == "--kind":
            return value if equals else "".join(args[i + 1 : i + 2])
    return ""


if __name__ == "__main__":
    cli.run(main)
