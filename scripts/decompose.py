"""Take images apart: ``python scripts/decompose.py RUN IMAGE... --out DIR``.

For each image, a strip of the inference steps (Fig. 4); the layers as full, unoccluded objects, in
transparent PNGs or an OpenRaster file; the scene painted from them, and how it builds up (Fig. 7);
and scene.json, to edit and paint again with sample.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from econ_pyro import cli, errors
from econ_pyro.data.images import Fit, decode, find_images, read_image
from econ_pyro.econ import Econ, load_model
from econ_pyro.files import outputs
from econ_pyro.files.folder_names import folder_names
from econ_pyro.io import scene_file
from econ_pyro.io.full_resolution import full_resolution_layers
from econ_pyro.io.layer_files import (
    RENDERED_FILES,
    Format,
    check_formats,
    write_layers,
    write_rendered,
    write_scene,
)

FULL = "full-resolution"
"""Folder of the layers in an image's own pixels."""
LAYOUT = outputs.OutputLayout("*/scene.json", rf"({FULL}/)?({RENDERED_FILES}|strip\.png)")


@dataclass(frozen=True)
class Args:
    """What to take apart, with which run."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    out: Path
    """Output folder; each image gets a folder of its own in it."""
    fit: Fit = "crop"
    """How images of another size or shape are brought to the model's."""
    slots: int | None = None
    """Number of layers; as in training if not given."""
    greedy: bool = False
    """Leave the layers as the competition found them: no refinement by the likelihood."""
    format: tuple[Format, ...] = ("png",)
    """png: a transparent PNG a layer; ora: one layered file, for GIMP, Krita and others."""
    full_resolution: bool = False
    """Also write the layers in the pixels of each image."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Write into the output folder if it exists: earlier results go, other files stay."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    check_formats(parsed.format)
    if parsed.slots is not None:
        errors.check_range("--slots", parsed.slots, 1, scene_file.MAX_LAYERS)
    outputs.check_output(parsed.out, parsed.overwrite, LAYOUT)
    econ = load_model(parsed.run, cli.pick_device(parsed.device))
    if parsed.full_resolution and not isinstance(econ, Econ):
        expected = "a model that renders, for --full-resolution"
        raise errors.EconError(expected, f"{parsed.run}, which does not")
    out = parsed.out.resolve()  # in a folder of pictures, results of before are none of them
    paths = [path for path in find_images(parsed.images) if not path.resolve().is_relative_to(out)]
    if not paths:
        raise errors.EconError("images to take apart", f"only results in {parsed.out}")
    images = torch.stack([read_image(p, econ.config.model.size, parsed.fit) for p in paths])
    names = folder_names(paths)
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as out:
        options: dict[str, Any] = {"greedy": True} if parsed.greedy else {}
        decomposed = econ.decompose(images, parsed.slots, **options)
        for i, (path, name) in enumerate(zip(paths, names, strict=True)):
            d = decomposed[i]
            scene = scene_file.of_decomposition(d)
            write_scene(out / name, d, scene, econ.names, str(path), parsed.format)
            if not isinstance(econ, Econ):
                continue
            rendered = econ.render(scene)
            write_rendered(out / name, scene, rendered, econ.names, parsed.format)
            if parsed.full_resolution:
                picture = decode(path)
                layers = full_resolution_layers(
                    picture, d, scene, rendered, econ.names, parsed.fit, econ.sizes.sigma_x
                )
                size = picture.shape[1], picture.shape[0]
                write_layers(out / name / FULL, layers, *size, parsed.format)
    for name in names:
        print(parsed.out / name)


if __name__ == "__main__":
    cli.run(main)
