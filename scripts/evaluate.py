"""Measure a run: ``python scripts/evaluate.py RUN``; names its experts in experts.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from econ_pyro import cli, errors, files
from econ_pyro.data import ImageFolder, Source, open_split
from econ_pyro.dataset import is_dataset
from econ_pyro.econ import load
from econ_pyro.evaluation import (
    TEST_SEED,
    as_json,
    evaluate,
    format_report,
    format_table,
    shifted_sources,
    write_names,
)


@dataclass(frozen=True)
class Args:
    """What to measure, on what."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    data: Path | None = None
    """A dataset folder (its validation scenes) or a folder of images; held-out scenes of the
    run's own kind are generated if not given."""
    n: int = 1000
    """Number of generated scenes."""
    shifted: bool = False
    """Also on shifted data: more objects, one class, colours near the background, spare steps."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """auto, cpu or cuda."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    errors.check_positive("--n", parsed.n)
    econ = load(parsed.run, cli.pick_device(parsed.device))
    size = econ.config.model.size
    scenes = replace(econ.config.scenes, size=size)
    source: Source
    if parsed.data is None or is_dataset(parsed.data):
        source = open_split(parsed.data, scenes, size, TEST_SEED, 1, parsed.n).valid
    else:
        source = ImageFolder(parsed.data, size)
    report = evaluate(econ, source)
    own = parsed.run.is_dir()  # shipped weights keep the figures that they came with
    if parsed.data is None and own:
        econ.names = write_names(parsed.run, report, econ.names)
    reports = {"held-out" if parsed.data is None else str(parsed.data): report}
    if parsed.shifted:
        for name, (shifted, steps) in shifted_sources(econ, parsed.n).items():
            reports[name] = evaluate(econ, shifted, steps)
    out = {name: as_json(r) for name, r in reports.items()}
    if own:
        files.write_json(parsed.run / "evaluation.json", out)
    if parsed.json:
        print(json.dumps(out, indent=2))
        return
    print(format_report(report, f"{len(source)} scenes"))
    if parsed.shifted:
        print("\n" + format_table(reports))


if __name__ == "__main__":
    cli.run(main)
