"""Export to ONNX: ``python scripts/export_onnx.py RUN --out DIR``.

Writes decompose.onnx, which takes images apart, and decoder_K.onnx for each expert, runs them with
onnxruntime and says how far they are from torch.
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
    """What to export, where to."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    out: Path
    """Output folder."""
    slots: int | None = None
    """Layers that decompose.onnx looks for; as in training if not given."""
    overwrite: bool = False
    """Write into the output folder if it exists: earlier files go, others stay."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    if parsed.slots is not None:
        errors.check_range("--slots", parsed.slots, 1, MAX_LAYERS)
    outputs.check_output(parsed.out, parsed.overwrite, LAYOUT)
    econ = load(parsed.run)
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as out:
        differences = export_onnx(econ, out, parsed.slots)
    for name, difference in differences.items():
        path = parsed.out / name
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, within {difference:.1e} of torch")


if __name__ == "__main__":
    cli.run(main)
