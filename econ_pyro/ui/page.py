"""The page with its three tabs. Requires the extra ``ui`` (gradio).

The scene of a visitor is a ``gr.State``; the model is shared. Sliders handle ``input`` events,
which only users trigger, and not ``change`` events, which updates trigger too.
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
from econ_pyro.ui.components import html, listen, message
from econ_pyro.ui.editor import Editor
from econ_pyro.ui.scene_edits import Composer

NUM_SAMPLES = 10  # per expert

Decompose = Callable[[Tensor], tuple[Scene, str]]
"""Decomposes an image ``(1, 3, H, W)``; the text is a warning, or empty."""


def build(
    econ: Composer, decompose: Decompose, example: Callable[[int], Tensor] | None
) -> gr.Blocks:
    """Build the page of a model.

    Args:
        econ: the scene model.
        decompose: decomposes one image.
        example: maps a number to an example image ``(1, 3, H, W)``; None without examples.
    """
    title = "econ-pyro: layered scenes"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.Markdown("# Layered scenes")
        with gr.Tab("Decompose"):
            _decompose(econ, decompose, example)
        with gr.Tab("Compose"):
            _compose(econ)
        with gr.Tab("Experts"):
            _experts(econ)
    return page


def _decompose(
    econ: Composer, decompose: Decompose, example: Callable[[int], Tensor] | None
) -> None:
    size = econ.sizes.size
    gr.Markdown(
        "Upload an image. The experts decompose it into layers, front to back, each with a whole "
        f"object, which you can edit. The image is first cropped to a square of {size} × {size} "
        "pixels."
    )
    upload = gr.File(
        label="Image (PNG, JPEG, GIF or WebP, at most 10 MB)",
        file_types=[".png", ".jpg", ".jpeg", ".gif", ".webp"],
        height=130,
        elem_id="upload",
    )
    another = gr.Button("Try an example scene", elem_id="example") if example else None
    said = html(visible=False, elem_id="apart-said")
    editor = Editor(econ, "apart")

    def found(image: Tensor) -> list[Any]:
        scene, warning = decompose(image)
        shown = sum(layer.visible for layer in scene.layers)
        text = f"{shown} of {len(scene.layers)} layers are present."
        if warning:
            text += f" The image is {warning}."
        return [
            message(text, error=bool(warning)),
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
    # not upload.change: examples clear the file, which must not close the editor
    listen(upload.upload, uploaded, [upload], outputs, progress=True)
    listen(upload.clear, lambda: uploaded(None), [], outputs)
    if another is not None and example is not None:
        draw = example

        def tried() -> list[Any]:
            return [None, *found(draw(random.randrange(1_000_000)))]

        listen(another.click, tried, [], [upload, *outputs], progress=True)


def _compose(econ: Composer) -> None:
    gr.Markdown(
        "Sample a scene from the prior. The same seed always gives the same scene. You can add, "
        "move, reorder and modify its layers below."
    )
    slots = econ.sizes.num_slots
    with gr.Row(equal_height=True):
        seed = gr.Number(0, label="Seed of the scene", precision=0, minimum=0, elem_id="seed")
        count = gr.Slider(1, max(8, slots), slots, step=1, label="Layers", elem_id="count")
    with gr.Row():
        draw = gr.Button("Sample with this seed", elem_id="draw")
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
        "Samples of each expert, with latents drawn from N(0, 1). The samples in a column have "
        "the same latents."
    )
    said = html(visible=False, elem_id="experts-said")
    with gr.Row():
        seed = gr.Number(
            0, label="Seed of the first sample", precision=0, minimum=0, elem_id="wall-seed"
        )
    more = gr.Button("New samples", variant="primary", elem_id="more")
    wall = html(
        markup.expert_samples(scene_edits.expert_samples(econ, NUM_SAMPLES, 0), econ.names),
        elem_id="wall",
    )
    gr.Markdown(
        "### Latent traversals\nEach row varies one latent of the first sample above, in standard "
        "deviations of the prior."
    )
    expert = gr.Radio(_choices(econ.names), value=0, label="Expert", elem_id="expert")
    rows = html(_traversals(econ, 0, 0), elem_id="traversals")
    outputs = [said, wall, rows]

    def drawn(number: float | None, k: int) -> list[Any]:
        try:
            first = scene_edits.check_seed(number)
            samples = scene_edits.expert_samples(econ, NUM_SAMPLES, first)
            return [message(), markup.expert_samples(samples, econ.names),
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
    return markup.traversals(
        scene_edits.traverse(econ, scene_edits.sample_layer(econ, expert, seed))
    )


def _choices(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, k) for k, name in enumerate(names)]
