"""Components and event handlers of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from threading import Lock
from typing import Any

import gradio as gr

from econ_pyro.accel import malloc
from econ_pyro.errors import EconError
from econ_pyro.ui import markup

_MODEL = Lock()


def listen(
    event: Callable[..., Any],
    then: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    progress: bool = False,
    live: bool = False,
) -> Any:
    """Bind an event handler.

    Handlers run one at a time, as Pyro's effect handlers and torch's generators are global. They
    cannot be called from outside the page.

    Args:
        event: event of a component.
        then: event handler.
        inputs: input components.
        outputs: output components.
        progress: whether to show a progress indicator.
        live: whether to skip all but the latest of the events that occur while the handler runs.
    """
    return event(
        _exclusive(then),
        list(inputs),
        list(outputs),
        show_progress="minimal" if progress else "hidden",
        trigger_mode="always_last" if live else "once",
        concurrency_id="model",
        concurrency_limit=1,
        api_visibility="private",
    )


def _exclusive(then: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Run handlers one at a time, even if they bypass gradio's queue."""
    if then is None:
        return None
    handler = then

    @wraps(handler)
    def exclusive(*values: Any) -> Any:
        with _MODEL:
            try:
                return handler(*values)
            except EconError as error:
                raise gr.Error(str(error), print_exception=False) from None
            finally:
                malloc.trim()

    return exclusive


def html(value: str = "", **settings: Any) -> gr.HTML:
    """HTML component without gradio's text style."""
    return gr.HTML(value, apply_default_css=False, **settings)


def message(text: str = "", error: bool = False) -> dict[str, Any]:
    """An update that shows a message, or hides the component if the text is empty."""
    return gr.update(value=markup.message(text, error), visible=bool(text))
