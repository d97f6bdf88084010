"""Measure a run: ``python scripts/evaluate.py RUN``; names its experts in experts.json."""

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
from econ_pyro.data.readers.detect import open_images
from econ_pyro.data.splits import open_split
from econ_pyro.data.synthetic.dataset import is_dataset
from econ_pyro.econ import Econ, load_model
from econ_pyro.errors import EconError
from econ_pyro.evaluation.evaluate import (
    TEST_SEED,
    as_json,
    evaluate,
    evaluate_ood,
    format_report,
    format_table,
    names_of,
    write_names,
)
from econ_pyro.evaluation.sample_quality import score_samples, train_classifier
from econ_pyro.files import locks, storage
from econ_pyro.io.pretrained import WEIGHTS, find
from econ_pyro.naming import clean_name
from econ_pyro.training import checkpoint
from econ_pyro.training.progress import describe_run
from econ_pyro.training.run_config import read_config

EVALUATION = "evaluation.json"
WAIT = 5.0
"""Seconds to wait for another process that evaluates the same run."""


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
    gt_masks: bool = False
    """Give the true regions in place of attention (the paper's Fig. 5)."""
    greedy: bool = False
    """Leave the layers as the competition found them: no refinement by the likelihood."""
    ood: bool = False
    """Also out of distribution: more objects, one class, colours near the background, spare
    layers."""
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
    own = parsed.run.is_dir()  # shipped weights keep the figures that they came with
    store = _Store(parsed.run) if own else None
    econ = load_model(parsed.run, cli.pick_device(parsed.device))
    size = econ.config.model.size
    scenes = replace(econ.config.scenes, size=size)
    trained = read_config(find(parsed.run))
    own_data = trained.data  # weights do not say
    if own_data is not None and (parsed.ood or parsed.samples):
        raise EconError(
            "a run on generated scenes, for --ood and --samples", f"one trained on {own_data}"
        )
    data = parsed.data or own_data
    fit, limit = parsed.fit or trained.fit, trained.limit
    own_images = data and own_data and data.resolve() == own_data.resolve()
    source: Source
    if data is None or is_dataset(data) or own_images:  # of which a part is held out
        source = open_split(data, scenes, size, TEST_SEED, 1, parsed.n, fit, limit=limit).valid
    else:
        source = open_images(data, size, fit, limit=parsed.n)
    report = evaluate(econ, source, gt_masks=parsed.gt_masks, greedy=parsed.greedy)
    unlike_usual = "-gt-masks" * parsed.gt_masks + "-greedy" * parsed.greedy
    if store and parsed.data is None and not unlike_usual:
        store.add(lambda: write_names(parsed.run, report, econ.names))
        econ.names = names_of(report, econ.names)
    reports = {"held-out" if parsed.data is None else str(parsed.data): report}
    if parsed.ood:
        reports |= evaluate_ood(econ, parsed.n, parsed.greedy)
    out: dict[str, Any] = {name: as_json(r) for name, r in reports.items()}
    if parsed.samples:
        if not isinstance(econ, Econ):
            raise EconError("a model with experts, for --samples", f"{parsed.run}, which has none")
        judged = score_samples(econ, train_classifier(scenes), scenes.objects, min(parsed.n, 500))
        out["samples"] = dataclasses.asdict(judged)
    if left := describe_run(find(parsed.run), econ.config):
        out["training"] = left
    if store:
        path = parsed.run / f"evaluation{unlike_usual}.json"
        # figures of other data stand beside those of held-out scenes
        before = storage.read_json(path) if parsed.data and path.exists() else {}
        store.add(lambda: storage.write_json(path, {**before, **out}))
        store.write()
    if parsed.json:
        print(json.dumps(out, indent=2))
        return
    print(format_report(report, f"{len(source)} scenes"))
    if left:
        print(f"\n{left}")
    if parsed.ood:
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
    """What is to be written into a run's folder: all results are printed also where none can be.

    Args:
        run: the folder. If it cannot be written, that is said at once, before all is computed.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._writes = run, list[Callable[[], object]]()
        self._measured = self._weights()
        try:
            storage.check_writable(run / EVALUATION)
        except (EconError, OSError) as error:
            self._say(error)

    def add(self, write: Callable[[], object]) -> None:
        """Have something written at the end."""
        self._writes.append(write)

    def write(self) -> None:
        """Write all, unless the run is no longer what was measured."""
        try:
            # others that evaluate are done at once, training is not
            with locks.hold_lock(self._run, wait=WAIT):
                if self._weights() != self._measured:
                    raise EconError(f"the weights that were loaded in {self._run}", "newer ones")
                for write in self._writes:
                    write()
        except (EconError, OSError) as error:
            self._say(error)

    def _weights(self) -> list[tuple[int, int]]:
        paths = [self._run / checkpoint.BEST, self._run / WEIGHTS]
        found = [path.stat() for path in paths if path.exists()]
        return [(about.st_ino, about.st_mtime_ns) for about in found]

    def _say(self, error: EconError | OSError) -> None:
        if isinstance(error, OSError):
            error = storage.to_econ_error(error)
        print(f"warning: figures are printed, not stored: {error}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
