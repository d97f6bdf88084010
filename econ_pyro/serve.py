"""Serving the page to one machine: loopback, no files, no network.

Gradio's pages name fonts and scripts of other hosts, and its routes can serve files. Here the
browser is told to load nothing from elsewhere (Content-Security-Policy), requests for another host
name are refused (DNS rebinding), and uploads go to a folder of this process that is removed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from econ_pyro.errors import EconError

if TYPE_CHECKING:
    import gradio as gr

LOOPBACK = "127.0.0.1"
MAX_UPLOAD = "10mb"
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def gradio() -> Any:
    """The module, set to phone nowhere.

    Raises:
        EconError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise EconError(
            "gradio, for the page", "a Python without it", "pip install 'econ-pyro[ui]'"
        ) from error
    return gradio


@contextmanager
def uploads() -> Iterator[None]:
    """A folder of this process alone for what visitors upload; it goes when the block ends.

    To be entered before the page is built.
    """
    with tempfile.TemporaryDirectory(prefix="econ-page-") as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def serve(page: gr.Blocks, host: str = LOOPBACK, port: int | None = None, css: str = "") -> str:
    """Serve a page from threads of this process until ``page.close()``.

    Args:
        page: to serve.
        host: address to bind; loopback is reached from this machine alone.
        port: to listen at; the first free one from 7860 on if not given.
        css: style of the page.

    Returns:
        Its address.

    Raises:
        EconError: the port is taken.
    """
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    names = [host, "localhost", LOOPBACK] if host in (LOOPBACK, "localhost") else ["*"]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=names),
        Middleware(_Headers),
    ]
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            show_error=False,
            max_file_size=MAX_UPLOAD,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            state_session_capacity=1000,
            theme=gr.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=css,
            app_kwargs={"middleware": middleware, "openapi_url": None},
        )
    except OSError as error:
        raise EconError(
            f"a free port{'' if port is None else f' {port}'} on {host}",
            "none that can be listened at",
            "choose another with --port",
        ) from error
    return address


class _Headers:
    """Adds ``HEADERS`` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers)
