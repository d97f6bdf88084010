"""Remake the paper's figures from trained models: ``python scripts/figures.py --out figures``.

Figures 1, 4, 5, 6, 7 and 8 of the paper, on scenes that no model was trained on. A figure whose
model is not given is left out, and said so.
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
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ, load
from econ_pyro.evaluation.evaluate import TEST_SEED
from econ_pyro.files import outputs
from econ_pyro.scene_config import SceneConfig
from econ_pyro.viz import figures

LAYOUT = outputs.OutputLayout("figure-*.png", r"figure-\d+(-[A-D])?\.png")
WIDE = 8  # scenes or samples beside each other


@dataclass(frozen=True)
class Args:
    """Which models, and where to."""

    out: Path
    """Output folder."""
    unique: str | None = "quick"
    """Model of uniquely coloured objects: Fig. 1."""
    random: str | None = "random-colours"
    """Model of randomly coloured objects: Figs. 4, 6, 7 and 8."""
    single: str | None = "single-expert"
    """Model with a single expert: Fig. 5."""
    seed: int = 0
    """Seed of samples; scenes begin with this index."""
    overwrite: bool = False
    """Write into the output folder if it exists: earlier figures go, other files stay."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    models = {"unique": parsed.unique, "random": parsed.random, "single": parsed.single}
    figures = {"unique": _figure_1, "single": _figure_5, "random": _figures_4_6_7_8}
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as out:
        for name, draw in figures.items():
            model = models[name]
            if model is None:
                print(f"no model for --{name}: its figures are left out")
                continue
            draw(load(model), out, parsed.seed)
        drawn = sorted(path.name for path in out.iterdir())
    for name in drawn:
        print(parsed.out / name)


def _figure_1(econ: Econ, out: Path, seed: int) -> None:
    """Decomposed scenes, samples of each expert, and new compositions of them."""
    images = _scenes(econ, econ.config.scenes, WIDE, seed)
    d = econ.decompose(images)
    figures.decomposition_grid(d, econ.names, out / "figure-1-A.png")
    mean, shape = econ.sample_experts(WIDE, seed)
    figures.expert_samples(mean, shape, econ.names, out / "figure-1-B.png", images)
    # as in training; three objects at random; four
    steps = econ.config.model.num_slots
    rows = [econ.sample(WIDE, slots=t, seed=seed + t).image for t in (steps, steps + 1)]
    trained = econ.sample(WIDE, experts=list(reversed(d.k[0].tolist())), seed=seed).image
    figures.contact_sheet(torch.cat([trained, *rows]), out / "figure-1-C.png", columns=WIDE)


def _figure_5(econ: Econ, out: Path, seed: int) -> None:
    """Samples of a single expert, of whatever class."""
    mean, shape = econ.sample_experts(2 * WIDE, seed)
    images = _scenes(econ, econ.config.scenes, 2 * WIDE, seed)
    figures.expert_samples(mean, shape, ["the expert"], out / "figure-5.png", images)


def _figures_4_6_7_8(econ: Econ, out: Path, seed: int) -> None:
    """Inference step by step, samples of each expert, layer-wise sampling, unusual scenes."""
    scenes, steps = econ.config.scenes, econ.config.model.num_slots
    images = _scenes(econ, scenes, WIDE, seed)
    for i, part in enumerate("ABC"):
        d = econ.decompose(images[i : i + 1])
        figures.decomposition_strip(d, econ.names, out / f"figure-4-{part}.png")
    mean, shape = econ.sample_experts(WIDE, seed)
    figures.expert_samples(mean, shape, econ.names, out / "figure-6.png", images)
    new = econ.sample(WIDE, seed=seed)
    painted = stages(new.shape, new.appearance)
    figures.build_up(painted, out / "figure-7.png", new.k.flip(1), econ.names)
    more = replace(scenes, min_objects=None)
    unusual = {
        "A": (replace(more, objects=5), 6),
        "B": (replace(more, objects=3, selection="same"), steps + 2),
        "C": (replace(more, objects=4, selection="same"), 5),
        "D": (replace(more, kind="random-colours", near_background=64), steps),
    }
    for part, (config, t) in unusual.items():
        d = econ.decompose(_scenes(econ, config, 1, seed), t)
        figures.decomposition_strip(d, econ.names, out / f"figure-8-{part}.png")


def _scenes(econ: Econ, scenes: SceneConfig, n: int, first: int) -> Tensor:
    config = replace(scenes, size=econ.config.model.size)
    source = GeneratedScenes(config, TEST_SEED, first + n, "valid")
    return source.images(torch.arange(first, first + n))


if __name__ == "__main__":
    cli.run(main)
