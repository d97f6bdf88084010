"""Measure a run: ``python scripts/evaluate.py RUN``; names its experts in experts.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from econ_pyro import cli, errors, files
from econ_pyro.data import Source, open_split
from econ_pyro.dataset import is_dataset
from econ_pyro.econ import load
from econ_pyro.errors import EconError
from econ_pyro.evaluation import (
    TEST_SEED,
    as_json,
    evaluate,
    evaluate_shifted,
    format_report,
    format_table,
    write_names,
)
from econ_pyro.judge import score_samples, train_judge
from econ_pyro.naming import clean
from econ_pyro.opening import open_images
from econ_pyro.pretrained import find
from econ_pyro.recorded import read_config


@dataclass(frozen=True)
class Args:
    """What to measure, on what."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    data: Path | None = None
    """Whatever --data of svi_train.py takes: of a dataset folder and of what the run was trained
    on, the images held out are measured. If not given, what it was trained on: scenes of its own
    kind are generated if those were."""
    n: int = 1000
    """Number of generated scenes; most images taken of a file or a folder of images."""
    fit: Literal["crop", "resize"] | None = None
    """How images are brought to the model's size; as in training if not given."""
    true_regions: bool = False
    """Give the true regions in place of attention (the paper's Fig. 5)."""
    greedy: bool = False
    """Leave the layers as the competition found them: no refinement by the likelihood."""
    shifted: bool = False
    """Also on shifted data: more objects, one class, colours near the background, spare steps."""
    samples: bool = False
    """Also judge samples of the prior, with a classifier trained on rendered shapes."""
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
    trained = read_config(find(parsed.run))
    own_data = trained.data  # weights do not say
    if own_data is not None and (parsed.shifted or parsed.samples):
        raise EconError(
            "a run on generated scenes, for --shifted and --samples", f"one trained on {own_data}"
        )
    data = parsed.data or own_data
    fit, limit = parsed.fit or trained.fit, trained.limit
    own_images = data and own_data and data.resolve() == own_data.resolve()
    source: Source
    if data is None or is_dataset(data) or own_images:  # of which a part is held out
        source = open_split(data, scenes, size, TEST_SEED, 1, parsed.n, fit, limit=limit).valid
    else:
        source = open_images(data, size, fit, limit=parsed.n)
    report = evaluate(econ, source, true_regions=parsed.true_regions, greedy=parsed.greedy)
    own = parsed.run.is_dir()  # shipped weights keep the figures that they came with
    unlike_usual = "-true-regions" * parsed.true_regions + "-greedy" * parsed.greedy
    if parsed.data is None and own and not unlike_usual:
        econ.names = write_names(parsed.run, report, econ.names)
    reports = {"held-out" if parsed.data is None else str(parsed.data): report}
    if parsed.shifted:
        reports |= evaluate_shifted(econ, parsed.n, parsed.greedy)
    out: dict[str, Any] = {name: as_json(r) for name, r in reports.items()}
    if parsed.samples:
        judged = score_samples(econ, train_judge(scenes), scenes.objects, min(parsed.n, 500))
        out["samples"] = dataclasses.asdict(judged)
    if own:
        files.write_json(parsed.run / f"evaluation{unlike_usual}.json", out)
    if parsed.json:
        print(json.dumps(out, indent=2))
        return
    print(format_report(report, f"{len(source)} scenes"))
    if parsed.shifted:
        print("\n" + format_table(reports))
    if parsed.samples:
        print("\nsamples that show what they should")
        for name, share in judged.alone.items():
            print(f"  {clean(name) + ', alone':<28}{share:.3f}")
        print(
            f"  {'asked-for scenes':<28}{'-' if judged.asked is None else f'{judged.asked:.3f}'}"
        )


if __name__ == "__main__":
    cli.run(main)
