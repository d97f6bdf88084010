"""Write the weights of a run for publication: ``python scripts/publish.py RUN FOLDER``.

Write model.safetensors, config.json, experts.json and a model card with results on held-out
scenes, which are computed with the written weights. The results are also written to .eval_results/
for the Hugging Face hub. A FOLDER in econ_pyro/io/weights/ is installed with the package;
``hf upload OWNER/NAME FOLDER`` uploads a folder to the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from econ_pyro import __version__, cli, errors
from econ_pyro.data.base import Source
from econ_pyro.data.splits import open_split
from econ_pyro.econ import load
from econ_pyro.evaluation.evaluate import (
    TEST_SEED,
    as_json,
    evaluate_each,
    format_table,
    ood_sources,
)
from econ_pyro.files import outputs, storage
from econ_pyro.io.eval_results import DATASET, RESULTS, check_dataset, eval_results
from econ_pyro.io.model_card import LICENCE, check_licence, model_card
from econ_pyro.io.pretrained import CARD, find, refuse_run
from econ_pyro.training import checkpoint
from econ_pyro.training.progress import describe_run
from econ_pyro.training.run_config import read_config


@dataclass(frozen=True)
class Args:
    """Run and output."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    folder: tyro.conf.Positional[Path]
    """Output folder; its name is the title of the model card."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the stored weights; they load as float32."""
    licence: str = LICENCE
    """Licence of the weights, as an SPDX identifier."""
    data: Path | None = None
    """Data as for --data of svi_train.py, of which the validation images are used; default: the
    data of the run."""
    n: int = 1000
    """Number of generated scenes for the evaluation."""
    dataset: str | None = None
    """Dataset on the Hugging Face hub, as OWNER/NAME, to which the results in .eval_results/
    belong. Without it, results on --data are not written there."""
    ood: bool = False
    """Measure also scenes unlike those of training, as evaluate.py does."""
    which: Literal["best", "last"] = "best"
    """Checkpoint with the lowest validation loss, or the last one."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace the folder if it exists."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    errors.check_positive("--n", parsed.n)
    check_licence(parsed.licence)
    if parsed.dataset is not None:
        check_dataset(parsed.dataset)
    refuse_run(parsed.folder)
    outputs.check_output(parsed.folder, parsed.overwrite, checkpoint.CONFIG)
    device = cli.pick_device(parsed.device)
    econ = load(parsed.run, which=parsed.which)
    trained = read_config(find(parsed.run))
    data, fit, limit = parsed.data or trained.data, trained.fit, trained.limit
    size = econ.config.model.size
    scenes = replace(econ.config.scenes, size=size)
    valid = open_split(
        data, scenes, size, TEST_SEED, 1, parsed.n, fit, limit=limit, resample=trained.resample
    ).valid
    with outputs.atomic_folder(parsed.folder, parsed.overwrite, checkpoint.CONFIG) as out:
        econ.save_pretrained(out, parsed.dtype)
        written = load(out, device)
        title = "held-out" if data is None else data.name
        sources: dict[str, tuple[Source, int | None]] = {title: (valid, None)}
        if parsed.ood:
            sources |= ood_sources(written, parsed.n)
        reports = evaluate_each(written, sources)
        figures = {name: as_json(report) for name, report in reports.items()}
        storage.write_json(out / "evaluation.json", figures)
        text = model_card(
            parsed.folder.resolve().name, econ.config, econ.names, figures, parsed.licence,
            parsed.dtype, f"the images of {data.name}" if data else "",
        )  # fmt: skip
        storage.write_text(out / CARD, text)
        # out-of-distribution scenes are generated, whatever the dataset
        dataset, tasks = parsed.dataset, {title: figures[title]}
        if data is None:
            dataset = dataset or DATASET
            tasks = {f"{scenes.kind} {name}": report for name, report in figures.items()}
        if dataset is not None:
            notes = f"{len(valid)} scenes, econ-pyro {__version__}"
            storage.write_text(out / RESULTS, eval_results(tasks, dataset, notes))
    print(format_table(reports))
    if left := describe_run(find(parsed.run), econ.config):
        print(left)
    for path in sorted(path for path in parsed.folder.rglob("*") if path.is_file()):
        print(f"{path}: {path.stat().st_size / 1e6:.3f} MB")


if __name__ == "__main__":
    cli.run(main)
