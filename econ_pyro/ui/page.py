"""The page: three tabs on top of :mod:`econ_pyro.ui.scene_edits`. Needs the extra ``ui`` (gradio).

Nothing but this module and :mod:`econ_pyro.ui.server` knows gradio. A visitor's scene is a
``gr.State``, the model is shared. Sliders answer to ``input``, which a person causes, never to
``change``, which we cause ourselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.io.scene_file import Scene
from econ_pyro.ui import markup, scene_edits
from econ_pyro.ui.editor import Editor, html, listen, message
from econ_pyro.ui.scene_edits import Composer

WALL = 10  # samples an expert

TakeApart = Callable[[Tensor], Scene]
"""``(1, 3, H, W)`` to the scene found in it."""


def build(
    econ: Composer, take_apart: TakeApart, example: Callable[[int], Tensor] | None
) -> gr.Blocks:
    """The page of a run.

    Args:
        econ: the experts.
        take_apart: decomposes one image.
        example: makes an example image ``(1, 3, H, W)`` of a number; None if there are none.
    """
    title = "econ-pyro: scenes of layers"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.Markdown("# Scenes of layers")
        with gr.Tab("Take apart"):
            _take_apart(econ, take_apart, example)
        with gr.Tab("Compose"):
            _compose(econ)
        with gr.Tab("What the experts know"):
            _experts(econ)
    return page


def _take_apart(
    econ: Composer, take_apart: TakeApart, example: Callable[[int], Tensor] | None
) -> None:
    size = econ.sizes.size
    gr.Markdown(
        "Drop a picture: the experts take it apart into whole objects, front to back, and you "
        f"can rearrange them. It is cropped to a square of {size} × {size} pixels first."
    )
    upload = gr.File(
        label="Picture (PNG, JPEG, GIF or WebP, at most 10 MB)",
        file_types=[".png", ".jpg", ".jpeg", ".gif", ".webp"],
        height=130,
        elem_id="upload",
    )
    another = gr.Button("Try an example scene", elem_id="example") if example else None
    said = html(visible=False, elem_id="apart-said")
    editor = Editor(econ, "apart")

    def found(image: Tensor) -> list[Any]:
        scene = take_apart(image)
        shown = sum(layer.visible for layer in scene.layers)
        return [
            message(f"{shown} of {len(scene.layers)} layers hold something."),
            *editor.open(scene, given=image[0]),
        ]

    def uploaded(path: str | None) -> list[Any]:
        if path is None:
            return [message(), *editor.close()]
        try:
            return found(scene_edits.read_upload(path, size))
        except EconError as error:
            return [message(str(error), error=True), *editor.close()]

    outputs = [said, *editor.outputs]
    # not change: an example clears the file, which must not close the editor again
    listen(upload.upload, uploaded, [upload], outputs, progress=True)
    listen(upload.clear, lambda: uploaded(None), [], outputs)
    if another is not None and example is not None:
        draw = example

        def tried() -> list[Any]:
            return [None, *found(draw(random.randrange(1_000_000)))]

        listen(another.click, tried, [], [upload, *outputs], progress=True)


def _compose(econ: Composer) -> None:
    gr.Markdown(
        "A scene drawn by the experts. A seed always gives the same scene; add, move, reorder and "
        "reshape its layers below."
    )
    slots = econ.sizes.num_slots
    with gr.Row(equal_height=True):
        seed = gr.Number(0, label="Seed of the scene", precision=0, minimum=0, elem_id="seed")
        count = gr.Slider(1, max(8, slots), slots, step=1, label="Layers", elem_id="count")
    with gr.Row():
        draw = gr.Button("Paint this seed", elem_id="draw")
        surprise = gr.Button("Random scene", variant="primary", elem_id="surprise")
    said = html(visible=False, elem_id="compose-said")
    editor = Editor(econ, "compose", scene_edits.random_scene(econ, 0))
    outputs = [said, *editor.outputs]

    def painted(number: float | None, layers: int) -> list[Any]:
        try:
            scene = scene_edits.random_scene(econ, scene_edits.check_seed(number), int(layers))
        except EconError as error:
            return [message(str(error), error=True), *(gr.skip() for _ in editor.outputs)]
        return [message(), *editor.open(scene)]

    def surprised(layers: int) -> list[Any]:
        number = random.randrange(1_000_000)
        return [number, *painted(number, layers)]

    listen(draw.click, painted, [seed, count], outputs)
    listen(seed.submit, painted, [seed, count], outputs)
    listen(count.input, painted, [seed, count], outputs, live=True)
    listen(surprise.click, surprised, [count], [seed, *outputs])


def _experts(econ: Composer) -> None:
    gr.Markdown(
        "Each expert draws one kind of thing. Its samples come from latents drawn from N(0, 1); "
        "the same column has the same latents in every row."
    )
    said = html(visible=False, elem_id="experts-said")
    with gr.Row():
        seed = gr.Number(
            0, label="Seed of the first sample", precision=0, minimum=0, elem_id="wall-seed"
        )
    more = gr.Button("New samples", variant="primary", elem_id="more")
    wall = html(markup.wall(scene_edits.wall(econ, WALL, 0), econ.names), elem_id="wall")
    gr.Markdown(
        "### Latent traversals\nEach row moves one latent of the first sample above, in standard "
        "deviations of the prior; the others stay."
    )
    expert = gr.Radio(_choices(econ.names), value=0, label="Expert", elem_id="expert")
    rows = html(_traversals(econ, 0, 0), elem_id="traversals")
    outputs = [said, wall, rows]

    def drawn(number: float | None, k: int) -> list[Any]:
        try:
            first = scene_edits.check_seed(number)
            samples = scene_edits.wall(econ, WALL, first)
            return [message(), markup.wall(samples, econ.names),
                    _traversals(econ, k, first)]  # fmt: skip
        except EconError as error:
            return [message(str(error), error=True), gr.skip(), gr.skip()]

    def renewed(k: int) -> list[Any]:
        number = random.randrange(1_000_000)
        return [number, *drawn(number, k)]

    listen(more.click, renewed, [expert], [seed, *outputs])
    listen(seed.submit, drawn, [seed, expert], outputs)
    listen(expert.input, drawn, [seed, expert], outputs)


def _traversals(econ: Composer, expert: int, seed: int) -> str:
    return markup.traversals(scene_edits.traverse(econ, scene_edits.fresh(econ, expert, seed)))


def _choices(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, k) for k, name in enumerate(names)]
