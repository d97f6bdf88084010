"""Sample scenes: ``python scripts/sample.py RUN --scene "background circle square" --n 8``.

Write each scene as a PNG, samples of each expert (Fig. 6), and the build-up of the scenes layer by
layer (Fig. 7) as a sheet and an animation. With ``--from scene.json``, instead render a scene that
decompose.py wrote and that may have been edited, with the same output as decompose.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from econ_pyro import cli, errors
from econ_pyro.core.compositing import stages
from econ_pyro.econ import Econ
from econ_pyro.files import outputs, storage
from econ_pyro.infer.scene_model import SceneModel
from econ_pyro.io.layer_files import (
    RENDERED_FILES,
    Format,
    check_formats,
    write_image,
    write_rendered,
)
from econ_pyro.io.pretrained import load_model
from econ_pyro.io.scene_file import MAX_LAYERS, read_scene, to_json
from econ_pyro.ui.scene_edits import MAX_SEED
from econ_pyro.viz import figures, gif

MAX_SCENES = 1000  # they are rendered together and shown on one sheet
SAMPLED = outputs.OutputLayout("scene-*.png", r"scene-\d+\.png|build-up\.(png|gif)|experts\.png")
RENDERED = outputs.OutputLayout("scene.json", RENDERED_FILES)


@dataclass(frozen=True)
class Args:
    """Model, scenes and output."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run or of published weights, or the name of shipped ones."""
    out: Path
    """Output folder."""
    scene: str | None = None
    """Names of experts back to front, such as "background circle square". Names may consist of
    several words; if the text is ambiguous, the longest name is used."""
    experts: tuple[str, ...] | None = None
    """Alternative to --scene: experts back to front, each by its name (in quotes if it has spaces)
    or index. A number that is the name of an expert is not used as an index."""
    scene_file: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Alternative to --scene: a scene.json from decompose.py, which may have been edited."""
    format: tuple[Format, ...] = ("png",)
    """Formats of layers with --from: png, ora or both."""
    n: int = 8
    """Number of scenes."""
    slots: int | None = None
    """Number of layers without --scene and --experts; default: as in training."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Write into an existing folder: earlier results are replaced, other files are kept."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    check_formats(parsed.format)
    errors.check_range("--n", parsed.n, 1, MAX_SCENES)
    errors.check_range("--seed", parsed.seed, 0, MAX_SEED)
    if parsed.slots is not None:
        errors.check_range("--slots", parsed.slots, 1, MAX_LAYERS)
    for option in ("scene", "experts"):
        if (given := getattr(parsed, option)) is not None and not given:
            raise errors.EconError(f"experts for --{option}", "none", "name at least a background")
    layout = SAMPLED if parsed.scene_file is None else RENDERED
    outputs.check_output(parsed.out, parsed.overwrite, layout)
    econ = load_model(parsed.run, cli.pick_device(parsed.device))
    if parsed.scene_file is None:
        _sample(econ, parsed)
    elif isinstance(econ, Econ):
        _render(econ, parsed, parsed.scene_file)
    else:
        raise errors.EconError("a model with experts, for --from", f"{parsed.run}, which has none")


def _sample(econ: SceneModel, parsed: Args) -> None:
    wanted = {name: getattr(parsed, name) for name in ("scene", "experts", "slots")}
    given = {name: value for name, value in wanted.items() if value is not None}
    if given and not isinstance(econ, Econ):
        raise errors.EconError(f"a model with experts, for --{next(iter(given))}", str(parsed.run))
    canvas = econ.sample(parsed.n, seed=parsed.seed, **given)
    with outputs.merged_folder(parsed.out, parsed.overwrite, SAMPLED) as out:
        for i, image in enumerate(canvas.image):
            write_image(out / f"scene-{i:03d}.png", image)
        painted = stages(canvas.shape, canvas.appearance)
        figures.build_up(painted, out / "build-up.png", canvas.k.flip(1), econ.names)
        gif.build_up(painted, out / "build-up.gif")
        drawn = "build-up.png and build-up.gif"
        if isinstance(econ, Econ):
            mean, shape = econ.sample_experts(parsed.n, parsed.seed)
            figures.expert_samples(mean, shape, econ.names, out / "experts.png")
            drawn = "build-up.png, build-up.gif and experts.png"
    print(f"{parsed.n} scenes, {drawn} in {parsed.out}")


def _render(econ: Econ, parsed: Args, path: Path) -> None:
    for option in ("scene", "experts", "slots"):
        if getattr(parsed, option) is not None:
            raise errors.EconError(f"--from or --{option}", "both", "omit one of them")
    scene = read_scene(path, econ.names)
    rendered = econ.render(scene)
    with outputs.merged_folder(parsed.out, parsed.overwrite, RENDERED) as out:
        write_rendered(out, scene, rendered, econ.names, parsed.format)
        storage.write_json(out / "scene.json", to_json(scene))
    print(f"{len(scene.layers)} layers, composed.png and build-up.gif in {parsed.out}")


if __name__ == "__main__":
    cli.run(main)
