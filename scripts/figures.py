"""Reproduce figures of the paper with trained models: ``python scripts/figures.py --out figures``.

The figures are 1, 4, 5, 6, 7 and 8, on held-out scenes. A further one shows the corruptions that
``evaluate.py --corruptions`` applies to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor

from econ_pyro import cli
from econ_pyro.core.compositing import stages
from econ_pyro.data.base import Source
from econ_pyro.data.corrupted import CorruptedSource
from econ_pyro.econ import Econ, load
from econ_pyro.evaluation.evaluate import corrupted_sources, held_out
from econ_pyro.files import outputs
from econ_pyro.scene_config import SceneConfig
from econ_pyro.viz import figures

LAYOUT = outputs.OutputLayout("figure-*.png", r"figure-\d+(-[A-D])?\.png|corruptions\.png")
COLUMNS = 8  # scenes or samples per row


@dataclass(frozen=True)
class Args:
    """Models and output."""

    out: Path
    """Output folder."""
    unique: str | None = "learnt-unique-colours"
    """Model of uniquely coloured objects, for Fig. 1; None to skip it."""
    random: str | None = "learnt-random-colours"
    """Model of randomly coloured objects, for Figs. 4, 6, 7 and 8 and the corruptions of its
    scenes; None to skip them."""
    single: str | None = "single-expert"
    """Model with a single expert, for Fig. 5; None to skip it."""
    seed: int = 0
    """Seed of samples, and index of the first scene."""
    overwrite: bool = False
    """Write into an existing folder: earlier figures are replaced, other files are kept."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    models = {"unique": parsed.unique, "random": parsed.random, "single": parsed.single}
    figures = {"unique": _figure_1, "single": _figure_5, "random": _random_colours}
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as out:
        for name, draw in figures.items():
            model = models[name]
            if model is None:
                print(f"no model for --{name}: its figures are skipped")
                continue
            draw(load(model), out, parsed.seed)
        drawn = sorted(path.name for path in out.iterdir())
    for name in drawn:
        print(parsed.out / name)


def _figure_1(econ: Econ, out: Path, seed: int) -> None:
    """Decomposed scenes, samples of each expert, and new compositions of them."""
    images = _scenes(econ, econ.config.scenes, COLUMNS, seed)
    d = econ.decompose(images)
    figures.decomposition_grid(d, econ.names, out / "figure-1-A.png")
    mean, shape = econ.sample_experts(COLUMNS, seed)
    figures.expert_samples(mean, shape, econ.names, out / "figure-1-B.png", images)
    # experts as in a training scene; random experts; one layer more
    slots = econ.config.model.num_slots
    rows = [econ.sample(COLUMNS, slots=t, seed=seed + t).image for t in (slots, slots + 1)]
    trained = econ.sample(COLUMNS, experts=list(reversed(d.k[0].tolist())), seed=seed).image
    figures.contact_sheet(torch.cat([trained, *rows]), out / "figure-1-C.png", columns=COLUMNS)


def _figure_5(econ: Econ, out: Path, seed: int) -> None:
    """Samples of a single expert, which draws all classes."""
    mean, shape = econ.sample_experts(2 * COLUMNS, seed)
    images = _scenes(econ, econ.config.scenes, 2 * COLUMNS, seed)
    figures.expert_samples(mean, shape, ["the expert"], out / "figure-5.png", images)


def _random_colours(econ: Econ, out: Path, seed: int) -> None:
    """Figs. 4, 6, 7 and 8, and corrupted scenes."""
    _figures_4_6_7_8(econ, out, seed)
    clean = _source(econ, econ.config.scenes, COLUMNS, seed)
    shaded = CorruptedSource(clean, {"shading": 0.2})
    rows = {"clean": clean, **corrupted_sources(clean), "shading=0.2": shaded}
    first = torch.arange(seed, seed + COLUMNS)
    images = torch.cat([source.images(first) for source in rows.values()])
    figures.contact_sheet(images, out / "corruptions.png", COLUMNS, 64, list(rows))


def _figures_4_6_7_8(econ: Econ, out: Path, seed: int) -> None:
    """Decompositions, samples of each expert, layer-wise sampling, out-of-distribution scenes."""
    scenes, slots = econ.config.scenes, econ.config.model.num_slots
    images = _scenes(econ, scenes, COLUMNS, seed)
    for i, part in enumerate("ABC"):
        d = econ.decompose(images[i : i + 1])
        figures.decomposition_strip(d, econ.names, out / f"figure-4-{part}.png")
    mean, shape = econ.sample_experts(COLUMNS, seed)
    figures.expert_samples(mean, shape, econ.names, out / "figure-6.png", images)
    new = econ.sample(COLUMNS, seed=seed)
    painted = stages(new.shape, new.appearance)
    figures.build_up(painted, out / "figure-7.png", new.k.flip(1), econ.names)
    more = replace(scenes, min_objects=None)
    ood = {
        "A": (replace(more, objects=5), 6),
        "B": (replace(more, objects=3, selection="same"), slots + 2),
        "C": (replace(more, objects=4, selection="same"), 5),
        "D": (replace(more, near_background=64), slots),
    }
    for part, (config, t) in ood.items():
        d = econ.decompose(_scenes(econ, config, 1, seed), t)
        figures.decomposition_strip(d, econ.names, out / f"figure-8-{part}.png")


def _scenes(econ: Econ, scenes: SceneConfig, n: int, first: int) -> Tensor:
    return _source(econ, scenes, n, first).images(torch.arange(first, first + n))


def _source(econ: Econ, scenes: SceneConfig, n: int, first: int) -> Source:
    config = replace(scenes, size=econ.config.model.size)
    return held_out(config, first + n)


if __name__ == "__main__":
    cli.run(main)
