"""Evaluate a run and name its experts: ``python scripts/evaluate.py RUN``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from econ_pyro import cli, errors
from econ_pyro.data.base import Source
from econ_pyro.data.corrupted import CorruptedSource, format_corruptions, parse_corruptions
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.resize import Resample
from econ_pyro.data.splits import open_split
from econ_pyro.data.synthetic.dataset import is_dataset
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.evaluation.evaluate import (
    TEST_SEED,
    as_json,
    corrupted_sources,
    evaluate_each,
    format_report,
    format_table,
    names_of,
    ood_sources,
    write_names,
)
from econ_pyro.evaluation.sample_quality import score_samples, train_classifier
from econ_pyro.files import locks, storage
from econ_pyro.io.pretrained import EVALUATION, WEIGHTS, find, load_model
from econ_pyro.naming import clean_name
from econ_pyro.training import checkpoint
from econ_pyro.training.progress import describe_run
from econ_pyro.training.run_config import read_config

WAIT = 5.0
"""Seconds to wait for another process that is evaluating the same run."""


@dataclass(frozen=True)
class Args:
    """Model and data of the evaluation."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    data: Path | None = None
    """Data as for --data of svi_train.py; default: the data of the run, or generated scenes of the
    same configuration. Of a dataset folder and of the data of the run, the held-out images are
    used."""
    n: int = 1000
    """Number of generated scenes, or maximum number of images read from a file or folder."""
    fit: Literal["crop", "resize"] | None = None
    """How images are made square; default: as in training."""
    resample: Resample | None = None
    """How pixels of another size are made: nearest, area, or auto for what fits the image;
    default: as in training."""
    min_area: int | None = None
    """Minimum area of a present layer in pixels; default: 0.8% of the image."""
    gt_masks: bool = False
    """Use true regions in place of attention (Fig. 5)."""
    refine: bool = True
    """Refine the layers that the competition found, where the model's configuration says so."""
    ood: bool = False
    """Also evaluate on out-of-distribution scenes: more objects, one class, colours similar to the
    background, spare layers."""
    corrupt: tuple[str, ...] = ()
    """Corrupt the images: one or more of noise=0.05, speckle=0.1, jpeg=50, blur=1, contrast=0.25,
    outline=1, shading=0.2, texture=0.25, with any strength. Scores are against the ground truth of
    the clean images."""
    corruptions: bool = False
    """Also evaluate on the same scenes with each corruption of a standard set."""
    baselines: bool = False
    """Also evaluate baselines on the same scenes: the untrained model, connected components of one
    colour, clusters of colours, a fixed partition of the image and, with scikit-image,
    Felzenszwalb's segmentation."""
    samples: bool = False
    """Also evaluate samples of the prior with a classifier trained on rendered shapes."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """auto, cpu or cuda."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    errors.check_positive("--n", parsed.n)
    if parsed.min_area is not None:
        errors.check_positive("--min-area", parsed.min_area)
    strengths = parse_corruptions(parsed.corrupt)
    # results are not written to shipped weights
    store = _Store(parsed.run) if parsed.run.is_dir() else None
    econ = load_model(parsed.run, cli.pick_device(parsed.device))
    size = econ.config.model.size
    scenes = replace(econ.config.scenes, size=size)
    trained = read_config(find(parsed.run))
    own_data = trained.data  # None for published weights
    if own_data is not None and (parsed.ood or parsed.samples):
        raise EconError(
            "a run on generated scenes, for --ood and --samples", f"one trained on {own_data}"
        )
    data = parsed.data or own_data
    fit, limit = parsed.fit or trained.fit, trained.limit
    resample = parsed.resample or trained.resample
    own_images = data and own_data and data.resolve() == own_data.resolve()
    source: Source
    if data is None or is_dataset(data) or own_images:  # with held-out images
        source = open_split(
            data, scenes, size, TEST_SEED, 1, parsed.n, fit, limit=limit, resample=resample
        ).valid
    else:
        source = open_images(data, size, fit, limit=parsed.n, resample=resample)
    clean, title = source, "held-out" if parsed.data is None else str(parsed.data)
    if strengths:
        source = CorruptedSource(clean, strengths)
        title = f"{title}, {format_corruptions(strengths)}"
    sources: dict[str, tuple[Source, int | None]] = {title: (source, None)}
    if parsed.corruptions:
        of_data = "" if parsed.data is None else f"{parsed.data}, "
        for name, corrupted in corrupted_sources(clean).items():
            sources[of_data + name] = (corrupted, None)
    if parsed.ood:
        sources |= ood_sources(econ, parsed.n)
    reports = evaluate_each(
        econ, sources, parsed.gt_masks, parsed.refine, parsed.baselines, parsed.min_area
    )
    report = reports[title]
    suffix = "-gt-masks" * parsed.gt_masks + "-no-refine" * (not parsed.refine)
    if parsed.min_area is not None:
        suffix += f"-min-area-{parsed.min_area}"
    if store and parsed.data is None and not strengths and not suffix:
        store.add(lambda: write_names(parsed.run, report, econ.names))
        econ.names = names_of(report, econ.names)
    out: dict[str, Any] = {name: as_json(r) for name, r in reports.items()}
    if parsed.samples:
        if not isinstance(econ, Econ):
            raise EconError("a model with experts, for --samples", f"{parsed.run}, which has none")
        judged = score_samples(econ, train_classifier(scenes), scenes.objects, min(parsed.n, 500))
        out["samples"] = dataclasses.asdict(judged)
    if left := describe_run(find(parsed.run), econ.config):
        out["training"] = left
    if store:
        path = parsed.run / f"evaluation{suffix}.json"
        # keep the results on held-out scenes when evaluating on other images
        other = parsed.data or strengths
        before = storage.read_json(path) if other and path.exists() else {}
        store.add(lambda: storage.write_json(path, {**before, **out}))
        store.write()
    if parsed.json:
        print(json.dumps(out, indent=2))
        return
    print(format_report(report, f"{len(source)} scenes"))
    if left:
        print(f"\n{left}")
    if len(reports) > 1:
        print("\n" + format_table(reports))
    if parsed.samples:
        if not isinstance(econ, Econ):
            raise EconError("a model with experts, for --samples", f"{parsed.run}, which has none")
        print("\nshare of samples that show the right objects")
        for name, share in judged.alone.items():
            print(f"  {clean_name(name) + ', alone':<28}{share:.3f}")
        print(
            f"  {'asked-for scenes':<28}{'-' if judged.asked is None else f'{judged.asked:.3f}'}"
        )


class _Store:
    """Writes to the folder of a run; errors are warnings, so that results are always printed.

    Args:
        run: the folder. If it is not writable, the warning is printed immediately.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._writes = run, list[Callable[[], object]]()
        self._measured = self._weights()
        try:
            storage.check_writable(run / EVALUATION)
        except (EconError, OSError) as error:
            self._warn(error)

    def add(self, write: Callable[[], object]) -> None:
        """Add a function that writes a file, to be called at the end."""
        self._writes.append(write)

    def write(self) -> None:
        """Write all files, unless the weights have changed since they were loaded."""
        try:
            # other evaluations release the lock soon, training does not
            with locks.hold_lock(self._run, wait=WAIT):
                if self._weights() != self._measured:
                    raise EconError(f"the weights that were loaded in {self._run}", "newer ones")
                for write in self._writes:
                    write()
        except (EconError, OSError) as error:
            self._warn(error)

    def _weights(self) -> list[tuple[int, int]]:
        paths = [self._run / checkpoint.BEST, self._run / WEIGHTS]
        found = [path.stat() for path in paths if path.exists()]
        return [(stat.st_ino, stat.st_mtime_ns) for stat in found]

    def _warn(self, error: EconError | OSError) -> None:
        if isinstance(error, OSError):
            error = storage.to_econ_error(error)
        print(f"warning: results are printed but not stored: {error}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
