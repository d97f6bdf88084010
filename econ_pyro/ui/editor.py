"""The editor of the page: a scene, its layers, and the controls of one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from threading import Lock
from typing import Any

import gradio as gr
from torch import Tensor

from econ_pyro.accel import malloc
from econ_pyro.errors import EconError
from econ_pyro.io.scene_file import Layer, Scene
from econ_pyro.ui import markup, scene_edits
from econ_pyro.ui.scene_edits import Composer

SAVE = """(uri, name) => { if (!uri) return; const a = document.createElement("a");
  a.href = uri; a.download = name; document.body.append(a); a.click(); a.remove(); }"""
_MODEL = Lock()
DOWNLOADS = {
    "scene.png": "Save picture (.png)",
    "scene.ora": "Save layers (.ora)",
    "scene.json": "Save scene.json",
}


def listen(
    event: Callable[..., Any],
    then: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    progress: bool = False,
    live: bool = False,
) -> Any:
    """Bind an event, as all events of the page are.

    One runs at a time, because Pyro's handlers and torch's seeds are of the process; none can be
    called from outside the page.

    Args:
        event: of a component.
        then: the function.
        inputs: components.
        outputs: components.
        progress: show that it works.
        live: skip to the latest where a person is faster than we are.
    """
    return event(
        _alone(then),
        list(inputs),
        list(outputs),
        show_progress="minimal" if progress else "hidden",
        trigger_mode="always_last" if live else "once",
        concurrency_id="model",
        concurrency_limit=1,
        api_visibility="private",
    )


def _alone(then: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """One of these functions at a time, also where gradio's queue is passed by."""
    if then is None:
        return None
    called = then

    @wraps(called)
    def alone(*values: Any) -> Any:
        with _MODEL:
            try:
                return called(*values)
            except EconError as error:
                raise gr.Error(str(error), print_exception=False) from None
            finally:
                malloc.trim()

    return alone


def html(value: str = "", **settings: Any) -> gr.HTML:
    """HTML without gradio's own style of text."""
    return gr.HTML(value, apply_default_css=False, **settings)


def message(text: str = "", error: bool = False) -> dict[str, Any]:
    """An update that shows a line of words, or nothing and takes no room."""
    return gr.update(value=markup.message(text, error), visible=bool(text))


class Editor:
    """Components that show and change a scene.

    Args:
        econ: the experts.
        name: prefix of the components' HTML ids.
        scene: to begin with; the editor is closed if there is none.
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
                    label="Shown, front to back", elem_id=f"{name}-shown", **next(control)
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
                    self.swap = gr.Button("Replace layer by a sample", size="sm", min_width=140)
                    self.add = gr.Button("Add a sample in front", size="sm", min_width=140)
                self.dx = gr.Slider(label="Right (pixels)", step=1, buttons=[], **next(control))
                self.dy = gr.Slider(label="Down (pixels)", step=1, buttons=[], **next(control))
                self.fills = gr.Checkbox(
                    label="Fills the canvas, as a background does", **next(control)
                )
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
        """Values of ``outputs`` that show a scene.

        Args:
            scene: to show.
            given: the image it was taken from, ``(3, H, W)``.
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
            self.shown: lambda s, i, shown: scene_edits.show(s, shown),
            self.fills: lambda s, i, fills: scene_edits.edit(s, i, background=fills),
            self.dx: lambda s, i, dx: scene_edits.edit(s, i, dx=float(dx)),
            self.dy: lambda s, i, dy: scene_edits.edit(s, i, dy=float(dy)),
            **{
                slider: lambda s, i, value, j=j: scene_edits.turn(s, i, j, float(value))
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
        """After a button: all components anew."""
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
        """After a button that takes a seed: the next one, and all components anew."""
        i = _within(scene, picked)
        try:
            number = scene_edits.check_seed(seed)
            return [number + 1, *self._refresh(*change(scene, i, expert, number), given)]
        except EconError as error:
            return [gr.skip(), *self._refresh(scene, i, given, str(error))]

    def _swapped(self, scene: Scene, i: int, expert: int, seed: int) -> tuple[Scene, int]:
        return scene_edits.swap(self.econ, scene, i, expert, seed), i

    def _added(self, scene: Scene, i: int, expert: int, seed: int) -> tuple[Scene, int]:
        return scene_edits.add(scene, scene_edits.fresh(self.econ, expert, seed)), 0

    def _live(
        self,
        edit: Callable[[Scene, int, Any], Scene],
        scene: Scene,
        given: Tensor | None,
        picked: int | None,
        value: Any,
    ) -> list[Any]:
        """While a slider moves: the pictures alone, so that the slider stays in the hand."""
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
        """Settings of the controls, in the order in which they stand on the page."""
        layer, size = scene.layers[picked], scene.size
        names = self.econ.names
        choices = [(markup.layer_name(scene, i, names), i) for i in range(len(scene.layers))]
        shown = [i for i, other in enumerate(scene.layers) if other.visible]
        reach = max(3, math.ceil(max(abs(z) for z in layer.z)))  # encoded latents may lie far out
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
            *({"minimum": -reach, "maximum": reach, "value": round(z, 2)} for z in layer.z),
        ]


def _within(scene: Scene | None, picked: int | None) -> int:
    """A layer that exists: the choice may be older than the scene.

    Raises:
        EconError: there is no scene.
    """
    if scene is None:
        raise EconError(
            "a scene to edit", "none: the page keeps those used last", "begin with a new one"
        )
    return max(0, min(len(scene.layers) - 1, picked or 0))
