"""Make new scenes: ``python scripts/sample.py RUN --scene "background circle square" --n 8``.

Writes each scene as a PNG, a wall of samples of each expert alone (Fig. 6), and the scenes' layer
by layer build-up (Fig. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from econ_pyro import cli, errors, plots
from econ_pyro.econ import load
from econ_pyro.export import write_image
from econ_pyro.layers import stages


@dataclass(frozen=True)
class Args:
    """What to make, with which run."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    out: Path
    """Output folder."""
    scene: str | None = None
    """Names of experts back to front, as in "background circle square"."""
    experts: tuple[int, ...] | None = None
    """Or their indices, back to front."""
    n: int = 8
    """Number of scenes."""
    steps: int | None = None
    """Number of layers where neither scene nor experts is given; as in training if not given."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    errors.check_positive("--n", parsed.n)
    econ = load(parsed.run, cli.pick_device(parsed.device))
    canvas = econ.sample(parsed.n, parsed.scene, parsed.experts, parsed.steps, parsed.seed)
    with cli.staged(parsed.out, parsed.overwrite, "build-up.png") as out:
        for i, image in enumerate(canvas.image):
            write_image(out / f"scene-{i:03d}.png", image)
        painted = stages(canvas.shape, canvas.appearance)
        plots.build_up(painted, out / "build-up.png", canvas.k.flip(1), econ.names)
        mean, shape = econ.sample_experts(parsed.n, parsed.seed)
        plots.expert_samples(mean, shape, econ.names, out / "experts.png")
    print(f"{parsed.n} scenes, build-up.png and experts.png in {parsed.out}")


if __name__ == "__main__":
    cli.run(main)
