"""Export a model to ONNX: ``python scripts/export_onnx.py RUN --out DIR``.

Write decompose.onnx, which decomposes images, and decoder_K.onnx for each expert K. Both are run
with onnxruntime, and the maximum difference from torch is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from econ_pyro import cli, errors
from econ_pyro.econ import load
from econ_pyro.files import outputs
from econ_pyro.io.onnx_export import export_onnx
from econ_pyro.io.scene_file import MAX_LAYERS

LAYOUT = outputs.OutputLayout("decompose.onnx", r"(decompose|decoder_\d+)\.onnx")


@dataclass(frozen=True)
class Args:
    """Model and output."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    out: Path
    """Output folder."""
    slots: int | None = None
    """Number of layers of decompose.onnx; default: as in training."""
    overwrite: bool = False
    """Write into an existing folder: earlier results are replaced, other files are kept."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    if parsed.slots is not None:
        errors.check_range("--slots", parsed.slots, 1, MAX_LAYERS)
    outputs.check_output(parsed.out, parsed.overwrite, LAYOUT)
    econ = load(parsed.run)
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as out:
        differences = export_onnx(econ, out, parsed.slots)
    options = econ.sizes.competition  # only models that have one are exported
    if options.refine and options.refine_steps:
        print("decompose.onnx leaves out model.competition.refine-steps: a graph has no gradients")
    for name, difference in differences.items():
        path = parsed.out / name
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, within {difference:.1e} of torch")


if __name__ == "__main__":
    cli.run(main)
