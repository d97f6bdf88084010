"""Decompose images into layers: ``python scripts/decompose.py RUN IMAGE... --out DIR``.

For each image, write a strip of its layers with their scopes (Fig. 4); the layers with whole
objects as transparent PNGs or an OpenRaster file; the rendered scene and its build-up (Fig. 7);
and scene.json, which can be edited and rendered with sample.py. A warning names images that the
model explains much worse than held-out scenes, as they are unlike what it has learnt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from econ_pyro import cli, errors
from econ_pyro.data.images import decode, find_images, read_image
from econ_pyro.data.resize import Fit, Resample
from econ_pyro.econ import Econ
from econ_pyro.files import outputs
from econ_pyro.files.folder_names import folder_names
from econ_pyro.io import familiarity, scene_file
from econ_pyro.io.full_resolution import full_resolution_layers
from econ_pyro.io.layer_files import (
    RENDERED_FILES,
    Format,
    check_formats,
    write_layers,
    write_rendered,
    write_scene,
)
from econ_pyro.io.pretrained import find, load_model

FULL = "full-resolution"
"""Folder of the layers at full resolution."""
LAYOUT = outputs.OutputLayout("*/scene.json", rf"({FULL}/)?({RENDERED_FILES}|strip\.png)")


@dataclass(frozen=True)
class Args:
    """Images, model and output."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of images."""
    out: Path
    """Output folder, with one subfolder per image."""
    fit: Fit = "crop"
    """How images are made square: crop to the centre, or resize (stretch)."""
    resample: Resample = "auto"
    """How pixels of another size are made: nearest takes them as they are, area takes means; auto:
    nearest for images of few colours with hard edges, area for others."""
    slots: int | None = None
    """Number of layers; default: as in training."""
    min_area: int | None = None
    """Minimum area of a present layer in pixels at the model's size; default: 0.8% of the image.
    Smaller layers are hidden."""
    refine: bool = True
    """Refine the layers that the competition found, where the model's configuration says so."""
    format: tuple[Format, ...] = ("png",)
    """png: one transparent PNG per layer; ora: one OpenRaster file, for GIMP, Krita and others."""
    full_resolution: bool = False
    """Also write the layers at the full resolution of each image."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Write into an existing folder: earlier results are replaced, other files are kept."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    check_formats(parsed.format)
    if parsed.slots is not None:
        errors.check_range("--slots", parsed.slots, 1, scene_file.MAX_LAYERS)
    if parsed.min_area is not None:
        errors.check_positive("--min-area", parsed.min_area)
    outputs.check_output(parsed.out, parsed.overwrite, LAYOUT)
    econ = load_model(parsed.run, cli.pick_device(parsed.device))
    usual = familiarity.validation_nats(find(parsed.run))
    if parsed.full_resolution and not isinstance(econ, Econ):
        expected = "a model with experts, for --full-resolution"
        raise errors.EconError(expected, f"{parsed.run}, which has none")
    out = parsed.out.resolve()  # earlier results in a folder of images are not among the images
    paths = [path for path in find_images(parsed.images) if not path.resolve().is_relative_to(out)]
    if not paths:
        got = f"only results in {parsed.out}" if parsed.images else "none"
        raise errors.EconError("images to decompose", got, "name image files or folders of them")
    size = econ.config.model.size
    images = torch.stack([read_image(p, size, parsed.fit, parsed.resample) for p in paths])
    names = folder_names(paths)
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as out:
        options: dict[str, Any] = {} if parsed.refine else {"refine": False}
        decomposed = econ.decompose(images, parsed.slots, **options)
        for i, (path, name) in enumerate(zip(paths, names, strict=True)):
            d = decomposed[i]
            scene = scene_file.of_decomposition(d, parsed.min_area)
            write_scene(out / name, d, scene, econ.names, str(path), parsed.format)
            if not isinstance(econ, Econ):
                continue
            rendered = econ.render(scene)
            write_rendered(out / name, scene, rendered, econ.names, parsed.format)
            if parsed.full_resolution:
                picture = decode(path)
                layers = full_resolution_layers(
                    picture, d, scene, rendered, econ.names, econ.model.pixel_noise, parsed.fit
                )
                width, height = picture.shape[1], picture.shape[0]
                write_layers(out / name / FULL, layers, width, height, parsed.format)
    for name in names:
        print(parsed.out / name)
    # further layers cost more than those of held-out scenes
    unlike = familiarity.warnings_of(decomposed, usual) if parsed.slots is None else []
    for path, text in zip(paths, unlike, strict=False):
        if text:
            print(errors.printable(f"warning: {path}: {text}"), file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
