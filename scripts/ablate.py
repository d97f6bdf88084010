"""Train variants of a preset, several seeds each: ``python scripts/ablate.py variants.json``.

For ablations, and for ladders of changes that add up. Each variant and seed is a run of its own,
which is trained and evaluated on held-out scenes as by ``seeds.py``. Existing runs are resumed, or
only read if they are complete. A run that fails is reported; the others go on.
``ladder-unique-colours`` and ``ladder-random-colours`` are built in: from the paper's presets to
learnt attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from econ_pyro import cli
from econ_pyro.errors import EconError, did_you_mean
from econ_pyro.evaluation.success_criteria import failures
from econ_pyro.evaluation.system_table import cell
from econ_pyro.files import storage
from econ_pyro.scripts.seeds import NOTE, SeedRun, check_same, complete, train_all
from econ_pyro.training import child_runs
from econ_pyro.training.variants import Variants, read_variants

COLUMNS = {
    "ari": "ARI",
    "ari_fg": "ARI-FG",
    "visible_iou": "visible IoU",
    "amodal_iou": "amodal IoU",
    "oca": "counting",
    "ooa": "depth order",
    "class_accuracy": "class accuracy",
    "mse": "MSE",
    "minutes": "minutes",
}
"""Titles of the table's columns by score."""


@dataclass(frozen=True)
class Args:
    """Runs to train."""

    variants: tyro.conf.Positional[str]
    """A JSON file with the variants (docs/guides/training.md), or the name of built-in ones."""
    only: tuple[str, ...] = ()
    """Names of the variants to train; default: all."""
    seeds: str = "0-2"
    """Seeds, such as 0-9 or 0,3,7."""
    out: Path = Path("runs/ablation")
    """Folder of the runs, which are named VARIANT-seed-SEED, and of the table."""
    jobs: int = 1
    """Number of runs at a time, among which the CPU cores are divided."""
    n: int = 1000
    """Number of held-out scenes for the evaluation."""
    read: bool = False
    """Do not train and write nothing: print the table of the runs that there are."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    variants = read_variants(parsed.variants)
    cli.check_preset(variants.preset)
    names, seeds = _chosen(variants, parsed.only), child_runs.parse_seeds(parsed.seeds)
    # all variants have their first seed before one has its second
    runs = {
        (name, seed): _run(parsed.out, variants, name, seed)
        for seed in seeds
        for name in variants.variants
    }
    check_same([*runs.values()])
    wanted = [key for key in runs if key[0] in names and not parsed.read]
    trained = train_all([runs[key] for key in wanted], parsed.jobs, parsed.n, tolerant=True)
    results = dict(zip(wanted, trained, strict=True))
    # of the others, what there is
    for key in runs.keys() - results.keys():
        if runs[key].folder.exists():
            results[key] = complete(runs[key], parsed.n) or {}
    found = {
        name: {s: results[name, s] for s in seeds if (name, s) in results}
        for name in variants.variants
    }
    if not results:
        raise EconError(f"runs of {parsed.variants} in {parsed.out}", "none")
    text = table({name: scores for name, scores in found.items() if scores})
    print(text)
    for (name, seed), scores in sorted(results.items()):
        if note := scores.get(NOTE):
            print(f"{name}, seed {seed}: {note}")
    if parsed.read:
        return
    stored = {name: {str(s): v for s, v in scores.items()} for name, scores in found.items()}
    storage.write_json(parsed.out / "scores.json", stored)
    storage.write_text(parsed.out / "table.md", text + "\n")
    if failed := [runs[key].folder.name for key in wanted if not results[key]]:
        names_of = ", ".join(failed)
        raise EconError(f"{len(wanted)} runs to end well", f"{len(failed)} failures: {names_of}")


def _chosen(variants: Variants, only: Sequence[str]) -> list[str]:
    """The names of the variants to train.

    Raises:
        EconError: there is none of that name.
    """
    for name in only:
        if name not in variants.variants:
            known = ", ".join(variants.variants)
            raise EconError(f"one of {known}", name, did_you_mean(name, [*variants.variants]))
    return [name for name in variants.variants if not only or name in only]


def _run(out: Path, variants: Variants, name: str, seed: int) -> SeedRun:
    folder = out / f"{Variants.folder(name)}-seed-{seed}"
    return SeedRun(variants.preset, seed, folder, variants.variants[name])


def table(scores: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Markdown table with a row for each variant: successes, median and range of each score.

    Args:
        scores: of each variant, by seed; a run that failed or has not been evaluated has none.
    """
    lines = [f"| variant | success | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for name, runs in scores.items():
        good = sum(not failures(run) for run in runs.values())
        ended = [run for run in runs.values() if run]
        short = len(runs) - len(ended)
        failed = f" ({short} without scores)" if short else ""
        cells = [cell([run.get(c) for run in ended]) for c in COLUMNS]
        lines.append(f"| {name} | {good} of {len(runs)}{failed} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
