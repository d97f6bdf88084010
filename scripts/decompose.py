"""Take images apart: ``python scripts/decompose.py RUN IMAGE... --out DIR``.

For each image, a strip of the inference steps (Fig. 4), one transparent PNG a layer with the full,
unoccluded object, and scene.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from econ_pyro import cli
from econ_pyro.econ import load
from econ_pyro.export import write_scene
from econ_pyro.images import find_images, read_image


@dataclass(frozen=True)
class Args:
    """What to take apart, with which run."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    out: Path
    """Output folder; each image gets a folder of its own in it."""
    fit: Literal["crop", "resize"] = "crop"
    """How images of another size or shape are brought to the model's."""
    steps_per_scene: int | None = None
    """Layers to look for; as in training if not given."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    econ = load(parsed.run, cli.pick_device(parsed.device))
    paths = find_images(parsed.images)
    images = torch.stack([read_image(p, econ.config.model.size, parsed.fit) for p in paths])
    names = _unique([p.stem for p in paths])
    with cli.staged(parsed.out, parsed.overwrite, "*/scene.json") as out:
        d = econ.decompose(images, steps=parsed.steps_per_scene)
        for i, name in enumerate(names):
            write_scene(out / name, d[i : i + 1], econ.names, str(paths[i]))
    for name in names:
        print(parsed.out / name)


def _unique(stems: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    names = []
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    return names


if __name__ == "__main__":
    cli.run(main)
