"""Scene editor of the page: the image, its layers, and the controls of the selected layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from torch import Tensor

from econ_pyro.errors import EconError
from econ_pyro.io.scene_file import Layer, Scene
from econ_pyro.ui import markup, scene_edits
from econ_pyro.ui.components import html, listen, message
from econ_pyro.ui.scene_edits import Composer

SAVE = """(uri, name) => { if (!uri) return; const a = document.createElement("a");
  a.href = uri; a.download = name; document.body.append(a); a.click(); a.remove(); }"""
DOWNLOADS = {
    "scene.png": "Save image (.png)",
    "scene.ora": "Save layers (.ora)",
    "scene.json": "Save scene.json",
}


class Editor:
    """Components that display and edit a scene.

    Args:
        econ: the scene model.
        name: prefix of the HTML ids of the components.
        scene: initial scene; the editor is hidden if not given.
    """

    def __init__(self, econ: Composer, name: str, scene: Scene | None = None) -> None:
        self.econ = econ
        model = econ.sizes
        first = scene or Scene(model.size, (Layer(0, (0.0,) * model.expert.latents.dim),))
        self.scene, self.given = gr.State(scene), gr.State(None)
        picture, strip = self._pictures(first, 0, None)
        control = iter(self._controls(first, 0))
        with gr.Column(visible=scene is not None, elem_id=name) as self.panel, gr.Row():
            with gr.Column(min_width=320, elem_classes="sticky"):
                self.picture = html(picture, elem_id=f"{name}-picture")
                self.strip = html(strip, elem_id=f"{name}-layers")
            with gr.Column(min_width=320):
                self.shown = gr.CheckboxGroup(
                    label="Visible layers, front to back", elem_id=f"{name}-shown", **next(control)
                )
                self.picked = gr.Radio(
                    label="Layer to edit", elem_id=f"{name}-picked", **next(control)
                )
                self.said = html(visible=False, elem_id=f"{name}-error")
                with gr.Row():
                    self.forward = gr.Button(size="sm", min_width=90, **next(control))
                    self.backward = gr.Button(size="sm", min_width=90, **next(control))
                    self.remove = gr.Button(size="sm", min_width=90, **next(control))
                with gr.Row(equal_height=True):
                    self.expert = gr.Dropdown(
                        label="Expert", elem_id=f"{name}-expert", min_width=140, **next(control)
                    )
                    self.seed = gr.Number(
                        1,
                        label="Seed of the next sample",
                        precision=0,
                        minimum=0,
                        elem_id=f"{name}-seed",
                        min_width=140,
                    )
                with gr.Row():
                    self.swap = gr.Button("Replace layer with a sample", size="sm", min_width=140)
                    self.add = gr.Button("Add a sample in front", size="sm", min_width=140)
                self.dx = gr.Slider(label="Right (pixels)", step=1, buttons=[], **next(control))
                self.dy = gr.Slider(label="Down (pixels)", step=1, buttons=[], **next(control))
                self.fills = gr.Checkbox(label="Background (fills the canvas)", **next(control))
                self.latents = [
                    gr.Slider(label=f"Latent {j + 1}", step=0.01, buttons=[], **next(control))
                    for j in range(model.expert.latents.dim)
                ]
                with gr.Row():
                    self.downloads = {
                        file: gr.Button(words, size="sm", min_width=120)
                        for file, words in DOWNLOADS.items()
                    }
                self.file, self.file_name = gr.Textbox(visible=False), gr.Textbox(visible=False)
        self._painted = [self.scene, self.said, self.picture, self.strip]
        moves = [self.forward, self.backward, self.remove]
        controls = [self.picked, *moves, self.expert, self.dx, self.dy, self.fills, *self.latents]
        self._all = [*self._painted, self.shown, *controls]
        self.outputs = [self.panel, self.given, *self._all]
        self._events()

    def open(self, scene: Scene, given: Tensor | None = None) -> list[Any]:
        """Values of ``outputs`` that display a scene.

        Args:
            scene: the scene.
            given: the image of which it is the decomposition, ``(3, H, W)``.
        """
        return [gr.update(visible=True), given, *self._refresh(scene, 0, given)]

    def close(self) -> list[Any]:
        """Values of ``outputs`` that hide the editor."""
        return [gr.update(visible=False), None, None, *(gr.skip() for _ in self.outputs[3:])]

    def _events(self) -> None:
        state = [self.scene, self.given, self.picked]
        buttons: list[tuple[Any, Callable[[Scene, int], tuple[Scene, int]]]] = [
            (self.forward, lambda s, i: scene_edits.move(s, i, -1)),
            (self.backward, lambda s, i: scene_edits.move(s, i, 1)),
            (self.remove, lambda s, i: (scene_edits.remove(s, i), i)),
            (self.picked, lambda s, i: (s, i)),
        ]
        for component, change in buttons:
            event = component.input if component is self.picked else component.click
            listen(event, partial(self._change, change), state, self._all)
        drawn = [*state, self.expert, self.seed]
        listen(self.swap.click, partial(self._draw, self._swapped), drawn, [self.seed, *self._all])
        listen(self.add.click, partial(self._draw, self._added), drawn, [self.seed, *self._all])
        live: dict[Any, Callable[..., Scene]] = {
            self.shown: lambda s, i, shown: scene_edits.set_visible(s, shown),
            self.fills: lambda s, i, fills: scene_edits.edit(s, i, background=fills),
            self.dx: lambda s, i, dx: scene_edits.edit(s, i, dx=float(dx)),
            self.dy: lambda s, i, dy: scene_edits.edit(s, i, dy=float(dy)),
            **{
                slider: lambda s, i, value, j=j: scene_edits.set_latent(s, i, j, float(value))
                for j, slider in enumerate(self.latents)
            },
        }
        for component, edit in live.items():
            inputs = [*state, component]
            listen(component.input, partial(self._live, edit), inputs, self._painted, live=True)
        for file, button in self.downloads.items():
            ready = listen(
                button.click, partial(self._file, file), [self.scene], [self.file, self.file_name]
            )
            ready.then(None, [self.file, self.file_name], js=SAVE, api_visibility="private")

    def _change(
        self,
        change: Callable[[Scene, int], tuple[Scene, int]],
        scene: Scene,
        given: Tensor | None,
        picked: int | None,
    ) -> list[Any]:
        """Handle a button: update all components."""
        i = _within(scene, picked)
        try:
            return self._refresh(*change(scene, i), given)
        except EconError as error:
            return self._refresh(scene, i, given, str(error))

    def _draw(
        self,
        change: Callable[[Scene, int, int, int], tuple[Scene, int]],
        scene: Scene,
        given: Tensor | None,
        picked: int | None,
        expert: int,
        seed: float | None,
    ) -> list[Any]:
        """Handle a button that uses the seed: increment it and update all components."""
        i = _within(scene, picked)
        try:
            number = scene_edits.check_seed(seed)
            return [number + 1, *self._refresh(*change(scene, i, expert, number), given)]
        except EconError as error:
            return [gr.skip(), *self._refresh(scene, i, given, str(error))]

    def _swapped(self, scene: Scene, i: int, expert: int, seed: int) -> tuple[Scene, int]:
        return scene_edits.replace_layer(self.econ, scene, i, expert, seed), i

    def _added(self, scene: Scene, i: int, expert: int, seed: int) -> tuple[Scene, int]:
        return scene_edits.add(scene, scene_edits.sample_layer(self.econ, expert, seed)), 0

    def _live(
        self,
        edit: Callable[[Scene, int, Any], Scene],
        scene: Scene,
        given: Tensor | None,
        picked: int | None,
        value: Any,
    ) -> list[Any]:
        """Handle a moving slider: update only the images, so that the slider is not reset."""
        i = _within(scene, picked)
        scene = edit(scene, i, value)
        return [scene, message(), *self._pictures(scene, i, given)]

    def _file(self, name: str, scene: Scene) -> tuple[str, str]:
        _within(scene, 0)
        content, mime = scene_edits.as_file(self.econ, scene, name)
        return markup.data_uri(content, mime), name

    def _refresh(
        self, scene: Scene, picked: int, given: Tensor | None, error: str = ""
    ) -> list[Any]:
        i = _within(scene, picked)
        said = message(error, error=True)
        controls = [gr.update(**kwargs) for kwargs in self._controls(scene, i)]
        return [scene, said, *self._pictures(scene, i, given), *controls]

    def _pictures(self, scene: Scene, picked: int, given: Tensor | None) -> list[str]:
        rendered = self.econ.render(scene)
        return [
            markup.pictures(rendered, given),
            markup.layers(rendered, scene, self.econ.names, picked),
        ]

    def _controls(self, scene: Scene, picked: int) -> list[dict[str, Any]]:
        """Settings of the controls, in their order on the page."""
        layer, size = scene.layers[picked], scene.size
        names = self.econ.names
        choices = [(markup.layer_name(scene, i, names), i) for i in range(len(scene.layers))]
        shown = [i for i, other in enumerate(scene.layers) if other.visible]
        limit = max(3, math.ceil(max(abs(z) for z in layer.z)))  # encoded latents may be large
        return [
            {"choices": choices, "value": shown},
            {"choices": choices, "value": picked},
            {"value": "Bring forward", "interactive": picked > 0},
            {"value": "Send back", "interactive": picked < len(scene.layers) - 1},
            {"value": "Remove", "interactive": len(scene.layers) > 1},
            {"choices": [(name, k) for k, name in enumerate(names)], "value": layer.expert},
            {"minimum": -size, "maximum": size, "value": layer.dx},
            {"minimum": -size, "maximum": size, "value": layer.dy},
            {"value": layer.background},
            *({"minimum": -limit, "maximum": limit, "value": round(z, 2)} for z in layer.z),
        ]


def _within(scene: Scene | None, picked: int | None) -> int:
    """Clip the index of the selected layer, which may be older than the scene.

    Raises:
        EconError: there is no scene.
    """
    if scene is None:
        raise EconError(
            "a scene to edit", "none, as the page only keeps recent scenes", "start a new one"
        )
    return max(0, min(len(scene.layers) - 1, picked or 0))
