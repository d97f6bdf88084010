"""Report the content of a dataset and suggest options for training.

Example: python scripts/inspect_data.py multi_dsprites_colored_on_colored.tfrecords --out sheet.png
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from econ_pyro import cli
from econ_pyro.errors import EconError
from econ_pyro.evaluation.contact_sheet import contact_sheet
from econ_pyro.evaluation.data_report import advise, inspect, report
from econ_pyro.files import storage
from econ_pyro.viz import panels


@dataclass(frozen=True)
class Args:
    """Dataset to inspect."""

    path: tyro.conf.Positional[Path]
    """Data as for --data of svi_train.py: a dataset folder, a folder of images and videos, a video
    or animation, .npy, .npz, HDF5 or TFRecords."""
    out: Path | None = None
    """PNG file for a contact sheet."""
    fit: Literal["crop", "resize"] = "crop"
    """How images are made square: crop to the centre, or stretch."""
    limit: int = 1000
    """Maximum number of images to inspect."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    if parsed.out is not None:
        panels.check_suffix(parsed.out, (".png",))
        if parsed.out.exists() and parsed.out.resolve().is_relative_to(parsed.path.resolve()):
            raise EconError("a new file for the contact sheet", f"{parsed.out}, one of the data")
        storage.check_writable(parsed.out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report lists skipped files
        inspection = inspect(parsed.path, parsed.fit, parsed.limit)
    advice = advise(inspection, parsed.fit)
    if parsed.out is not None:
        panels.save(contact_sheet(inspection.source, advice.size), parsed.out)
    print(report(inspection, advice, parsed.fit))
    if parsed.out is not None:
        print(f"\ncontact sheet: {parsed.out}")


if __name__ == "__main__":
    cli.run(main)
